"""Weights beside weights, such as LoRA, to be read by layers/product.py so that no layer knows of them. None yet."""
