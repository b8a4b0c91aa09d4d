"""Smaller weights (pruned, quantised, low rank), to be read by layers/product.py, no layer knowing. None yet."""
