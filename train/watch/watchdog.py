"""The watchdog: a thread that ends a process whose training has not moved, after writing down where every thread is.

A rank that sleeps for ever keeps its heartbeat alive, so nobody else notices it; its peers wait in a collective for
ever. A process that ends is noticed by all of them.
"""

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kleiber.parallel.environment import seconds_in_environment
from kleiber.train.watch.goodput import Goodput

HANG_SECONDS = 60.0
MEDIANS = 20.0
START_FACTOR = 30.0
"""Until two calls of the steps have ended, nothing is known of their length: the limit is then half an hour."""
UNKNOWN = ("compile", "evaluate", "save")
"""Activities whose length cannot be foretold from the calls before: they have the long limit too."""
EXIT_HUNG = 75
"""Resumable, like a stop: the same line goes on from the last checkpoint."""


def hang_seconds() -> float:
    """Returns the shortest time without progress that counts as a hang: KLEIBER_HANG_SECONDS, or 60."""
    return seconds_in_environment("KLEIBER_HANG_SECONDS", HANG_SECONDS)


class Watchdog:
    """Looks at a Goodput clock once a second (or faster for short limits) until closed."""

    def __init__(
        self,
        clock: Goodput,
        stacks: Path,
        on_hang: Callable[[str], None] | None = None,
    ):
        """Starts watching.

        Args:
          clock: of the run.
          stacks: where the stack of every thread goes when it hangs.
          on_hang: called in place of ending the process.
        """
        self.clock, self.stacks, self.on_hang = clock, stacks, on_hang or self._end
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="kleiber-watchdog", daemon=True).start()

    def limit(self) -> float:
        """Returns the seconds without progress that are a hang now: 60, or 20 median calls if that is more."""
        spent = self.clock.call_seconds
        if len(spent) < 2 or self.clock.activity in UNKNOWN:
            return START_FACTOR * hang_seconds()
        return max(hang_seconds(), MEDIANS * statistics.median(spent))

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, hang_seconds() / 5)):
            activity, stuck = self.clock.activity, time.monotonic() - self.clock.moved
            if stuck > self.limit():
                self.on_hang(f"no progress in '{activity}' for {stuck:.0f} s (limit {self.limit():.0f} s)")
                return

    def _end(self, reason: str) -> None:
        try:
            self.stacks.parent.mkdir(parents=True, exist_ok=True)
            self.stacks.unlink(missing_ok=True)  # of a watchdog before, or somebody's link
            with open(self.stacks, "x") as file:
                file.write(f"{reason}; the stack of every thread of process {os.getpid()}:\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            faulthandler.dump_traceback(all_threads=True)
        print(
            f"kleiber: {reason}; ended by the watchdog. Stacks: {self.stacks}. The same line goes on from the last "
            "checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_HUNG)
