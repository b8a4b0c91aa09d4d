"""Anybody's table of runs: read, named, checked."""
