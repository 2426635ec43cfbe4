"""The measurements of Hugging Face evaluate, one file a name: it takes the first class of a module."""
