"""What importing hf_repgeo teaches other libraries: evaluate three names, the Auto classes our models."""
