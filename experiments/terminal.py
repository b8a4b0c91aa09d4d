"""What a terminal is told: text from files and models, and that work goes on."""

import contextlib
import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

HEARTBEAT_SECONDS = 5.0

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


_OURS_OR_CONTROL = re.compile(rf"(\x1b\[\??[0-9;]*[mAKGhl]|\r)|{_CONTROL.pattern}")
"""The sequences of colours and of a bar that moves, and after them whatever else is none of ours."""


def printable(text: str) -> str:
    """Returns text with control characters and marks of writing direction shown as codes; tab and newline stay.

    A name from a file could otherwise move the cursor, colour the screen, or hide what follows.
    """
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def accept_all_text() -> None:
    """Lets both streams of this process take any text: what their encoding lacks is shown as a code, control characters
    too, but for the colours of a terminal, and one that is closed takes it all and keeps nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
            if "write" not in vars(stream):
                stream.write = functools.partial(_write_printable, stream.write, stream.isatty())


def _write_printable(write: Callable[[str], int], is_terminal: bool, text: str) -> int:
    """Writes text without what could move the cursor or name the window; a terminal takes what is printed in colours,
    so whatever comes from a file is shown by `printable` or `tell`."""
    if not is_terminal:
        return write(printable(text))
    return write(_OURS_OR_CONTROL.sub(lambda match: match[1] or printable(match[0]), text))


def tell(text: str, stream: TextIO | None = None) -> None:
    """Prints what the work does not depend on: once nobody can read it (a full disk, `| head`), it goes nowhere.

    Args:
      text: its control characters are shown as codes.
      stream: default standard output.
    """
    stream = stream or sys.stdout
    try:
        print(printable(text), file=stream, flush=True)
    except OSError:  # what the buffer holds would fail again when the process ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def working(label: str) -> Iterator[None]:
    """Says on standard error every few seconds that work goes on, what it is and since when; an empty label nothing."""
    if not label:
        yield
        return
    done, began = threading.Event(), time.perf_counter()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            tell(f"{label}: {time.perf_counter() - began:.0f} s", sys.stderr)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
