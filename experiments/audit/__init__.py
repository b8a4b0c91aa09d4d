"""Checks of a recipe before it is trusted."""
