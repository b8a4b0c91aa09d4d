"""A law of the user's own: a plain function of columns and constants, taken up as the shipped laws are."""
