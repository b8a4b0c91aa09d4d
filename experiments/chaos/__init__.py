"""The failure tests: everything that reliability means here, done to real processes and real files."""
