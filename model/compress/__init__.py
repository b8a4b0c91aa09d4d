"""Smaller weights: rounded where layers/product.py reads them, or pruned as a tree, no layer knowing."""
