"""What this machine gives, measured: `kleiber bench`. Every timing goes through `interleave.py`."""
