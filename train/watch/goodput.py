"""Where the time of a run goes: compiling, steps, data, evaluating, saving, lost work, waiting. A local file.

Durations come from the monotonic clock, so a wall clock that is set back or forward makes none negative. Only the gap
between two launches is taken from the wall clock, and never below zero.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kleiber.files import checked_line, must_be_sealed, open_to_append, read_plain, row_of

KINDS = ("compile", "steps", "data", "evaluate", "save", "other", "lost", "waiting")
"""`other` is starting, and whatever is none of the rest; `lost` is training that a kill
took and a resume repeated; `waiting` is the time between two launches."""
WRITE_SECONDS = 5.0


class Goodput:
    """Adds up the seconds of each activity of one launch, and appends them to a file now and then."""

    def __init__(self, path: Path | None = None):
        """Starts the clock, and counts the time since the launch before as waiting.

        Args:
          path: goodput.jsonl; None keeps no file.
        """
        self.path = path
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.activity, self.since = "other", time.monotonic()
        self.call_seconds: list[float] = []
        """Seconds of the last calls of the compiled steps, for the watchdog's median."""
        self.moved = self.since
        """When a call ended, or an activity began."""
        self._written = self.since
        self._lock = threading.Lock()
        before = read_events(path)[-1:] if path else []
        if before:
            self.seconds["waiting"] = max(0.0, time.time() - before[0].get("time", time.time()))
        self.launch = f"{os.getpid()}-{len(read_events(path)) if path else 0}"

    @contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Counts the time of what stands below as one activity of KINDS."""
        before = self._switch(activity)
        try:
            yield
        finally:
            self._switch(before)

    def call_done(self, seconds: float) -> None:
        """Says that a call of the compiled steps ended, and how long it took."""
        self.call_seconds = [*self.call_seconds[-63:], seconds]
        self.moved = time.monotonic()

    def lost(self, seconds: float) -> None:
        """Counts training that had been done and must be repeated."""
        with self._lock:
            self.seconds["lost"] += max(0.0, seconds)

    def _switch(self, activity: str) -> str:
        now = time.monotonic()
        with self._lock:
            before, spent = self.activity, max(0.0, now - self.since)
            self.seconds[before] += spent
            self.activity, self.since, self.moved = activity, now, now
        if now - self._written > WRITE_SECONDS:
            self.write()
        return before

    def write(self) -> None:
        """Appends the seconds so far of this launch; the last line of a launch is its total."""
        self._written = now = time.monotonic()
        if self.path is None:
            return
        with self._lock:
            self.seconds[self.activity] += max(0.0, now - self.since)
            self.since = now
            row = {"launch": self.launch, "time": time.time(), **{k: round(v, 4) for k, v in self.seconds.items()}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(self.path) as file:
            file.write(checked_line(row))


def read_events(path: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of a goodput file; one that a kill cut short, or that was damaged, is left out."""
    lines = read_plain(path).decode(errors="replace").splitlines() if path.is_file() else []
    is_checked = must_be_sealed(path)
    return [row for line in lines if (row := row_of(line, is_checked)) and "launch" in row]


def total_seconds(paths: list[Path]) -> dict[str, float]:
    """Returns the seconds of each kind over all launches in some goodput files; each second is in one kind only."""
    totals = dict.fromkeys(KINDS, 0.0)
    for path in paths:
        for row in {row["launch"]: row for row in read_events(path)}.values():
            for kind in KINDS:
                totals[kind] += max(0.0, float(row.get(kind, 0.0)))
    totals["lost"] = min(totals["lost"], totals["steps"])  # it was counted as steps when it was done
    totals["steps"] -= totals["lost"]
    return totals
