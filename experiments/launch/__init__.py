"""Where a sweep's workers run: this machine so far (sweeping/workers.py). Clusters are to come, a file each."""
