"""Where a sweep's workers run: here, or in jobs of a cluster. The sweep's directory is all that they share."""
