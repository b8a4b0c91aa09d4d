"""A table of measured points in, a law with honest intervals out. Needs no device and no training code."""
