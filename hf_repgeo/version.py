"""The version and the address of the repository, each in one place."""

__version__ = "0.2.0"
__repository__ = ""  # empty until there is a public one; model cards then link to it
