"""Mistakes that a user can mend, and the exit codes of the command line."""

EXIT_DONE = 0
EXIT_USAGE = 2
"""The command or a config is wrong; nothing was started, or nothing more was done."""
EXIT_GATE = 3
"""Finished, but the result fails its own gate, or a run failed."""
EXIT_RESUMABLE = 75
"""Stopped early by a signal, a time limit or the watchdog; the same line goes on, so a requeue loop types it again."""
EXIT_CANNOT_WRITE = 74
"""No space, no permission, or a folder that went away: what is saved is kept; mend that, then the same line goes on."""
EXIT_OUT_OF_MEMORY = 71
"""Of a worker only: it ran out of memory, and the driver starts another in its place."""
