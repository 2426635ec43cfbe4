"""What the Spaces share: reading input, measuring, drawing."""
