"""What `import kleiber` offers, in Python; the command line is a face of it."""
