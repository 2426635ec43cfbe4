"""The measurements of Hugging Face evaluate, one file per name: it takes the first class of a module."""
