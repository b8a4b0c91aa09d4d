"""How many numbers are worked on at once, and keeping their memory for the next ones."""

import functools

import numpy as np

CHUNK = 80_000
"""Losses computed at once: with their derivatives a few megabytes, near the processor however many fits there are."""
LARGEST_KEPT_BYTES = (1 << 25) - (1 << 16)


@functools.cache
def keep_freed_memory() -> None:
    """Makes the C library keep freed arrays for the next ones of their size; done once a process, it costs nothing.

    Otherwise glibc gives them back, and getting the pages again takes as long as the arithmetic done in them. It keeps
    blocks up to the largest that was ever freed, at most 32 MiB; so one is asked for, never touched, and freed.

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    np.empty(LARGEST_KEPT_BYTES, np.uint8)
