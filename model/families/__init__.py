"""What is built from the layers: one file a family."""
