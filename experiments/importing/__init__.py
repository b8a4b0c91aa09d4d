"""What people have already, as a table of runs: event files, run folders, logs and exports, each read as it stands."""
