"""Figures of a scaling study: each a pure function of plain arrays, its title a claim made from the data."""
