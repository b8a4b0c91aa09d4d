"""Small weights beside weights that stay: what layers/product.py adds, and merging them into a tree."""
