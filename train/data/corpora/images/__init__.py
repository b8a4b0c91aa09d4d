"""Corpora of labelled images: where they are read, how they are split, and the arrays that training reads."""
