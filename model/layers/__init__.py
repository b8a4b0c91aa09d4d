"""The textbook: what a Transformer is made of, one noun a file."""
