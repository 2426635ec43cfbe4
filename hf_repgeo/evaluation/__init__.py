"""The measurements of Hugging Face evaluate, one file per name, since evaluate takes the first class of a module."""
