"""What a terminal is told: text from files and models, and that work goes on."""

import contextlib
import re
import sys
import threading
import time
from collections.abc import Iterator

HEARTBEAT_SECONDS = 5.0

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Returns text with control characters and marks of writing direction shown as codes; tab and newline stay.

    A name from a file could otherwise move the cursor, colour the screen, or hide what follows.
    """
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


@contextlib.contextmanager
def working(label: str) -> Iterator[None]:
    """Says on standard error every few seconds that work goes on, what it is and since when; an empty label nothing."""
    if not label:
        yield
        return
    done, began = threading.Event(), time.perf_counter()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            print(f"{label}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
