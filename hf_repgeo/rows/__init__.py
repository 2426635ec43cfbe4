"""Rows: texts, windows, files, models, and the one forward pass that turns text into representations."""
