"""Texts as sequences: measures that need the tokens of a text together and in their order."""
