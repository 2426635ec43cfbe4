"""Registers our modules with other libraries on import: names with evaluate, models with the Auto classes."""
