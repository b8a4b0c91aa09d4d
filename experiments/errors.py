"""Mistakes that a user can mend, and the exit codes of the command line."""

EXIT_DONE = 0
EXIT_USAGE = 2
"""The command or a config is wrong; nothing was started, or nothing more was done."""
EXIT_GATE = 3
"""Finished, but the result fails its own gate."""
EXIT_RESUMABLE = 75
"""Stopped early; typing the same line goes on."""
