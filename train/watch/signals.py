"""Signals: a stop is a flag, looked at between calls of the compiled steps, and a way out when nobody looks at it.

A Python signal handler runs only between two lines of Python; a compilation or a hung collective keeps it waiting for
minutes. So the signals are read from a pipe by a thread, which can end the process by itself: at once while nothing has
been trained since the last checkpoint, at a second signal, and GRACE_SECONDS after the first.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

GRACE_SECONDS = 30.0
EXIT_STOPPED = 75
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""SIGUSR1 is what Slurm is usually told to send ahead of a time limit."""


class StopRequest:
    """True once the process was asked to end: by a signal, a time limit, or the death of its parent."""

    def __init__(self, grace_seconds: float = GRACE_SECONDS, watches_parent: bool = True):
        """Takes over the stop signals of this process; call it in the main thread.

        Args:
          grace_seconds: after which a stop that nobody served ends the process.
          watches_parent: whether the death of the parent process is a stop.
        """
        self.reason = ""
        self.grace_seconds = grace_seconds
        self.has_work = False
        """Whether something would be lost if the process ended now; set by whoever trains."""
        self.on_leaving: Callable[[], None] = lambda: None
        """Called before the process ends at once."""
        self.parent = os.getppid() if watches_parent else None
        self._asked = 0.0
        read, write = os.pipe()
        os.set_blocking(write, False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._write = write
        threading.Thread(target=self._read, args=(read,), name="kleiber-signals", daemon=True).start()
        threading.Thread(target=self._wait, name="kleiber-grace", daemon=True).start()

    def __call__(self) -> bool:
        return bool(self.reason)

    def ask(self, reason: str) -> None:
        """Asks for a stop at the next step edge."""
        if not self.reason:
            self.reason, self._asked = reason, time.monotonic()

    def _read(self, pipe: int) -> None:
        while numbers := os.read(pipe, 64):
            for number in numbers:
                if number not in STOP_SIGNALS:
                    continue
                name = signal.Signals(number).name
                if self.reason:
                    self._leave(f"second signal ({name})")
                self.ask(name)
                if not self.has_work:
                    self._leave(f"{name}, and nothing was trained since the last checkpoint")

    def _wait(self) -> None:
        while True:
            time.sleep(0.25)
            if self.parent is not None and os.getppid() != self.parent:
                self.ask("the process that started this one is gone")
                if not self.has_work:
                    self._leave(self.reason)
            if self.reason and time.monotonic() - self._asked > self.grace_seconds:
                self._leave(f"{self.reason}, and no step ended within {self.grace_seconds:.0f} s")

    def _leave(self, reason: str) -> None:
        print(f"stopped at once: {reason}. Saved checkpoints are kept; the same line goes on.", flush=True)
        sys.stderr.flush()
        with contextlib.suppress(Exception):  # whatever it is, it is time to leave
            self.on_leaving()
        os._exit(EXIT_STOPPED)
