"""Devices become a named mesh; one table maps logical axis names to mesh axes."""
