"""Texts as sequences: what needs the tokens of a text together and in their order."""
