"""A process that measures when it is told to and sleeps in between, with threads, flags and caches of its own.

A number of threads, a compilation cache and a peak of memory belong to a process, so candidates that differ in them
cannot share one. Partners are started once and then take turns, as plain functions do:

    with Partner("kernels:numpy_rate", {"sizes": [512]}, num_threads=1) as one:
        interleaved({"one thread": one}, rounds=5)
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from kleiber.experiments.bench.setting import find_function
from kleiber.experiments.bench.step_shapes import Arrangement


class Partner:
    """One such process; called, it measures once and returns the figure."""

    def __init__(
        self,
        task: str,
        options: Mapping[str, Any] | None = None,
        num_threads: int = 1,
        num_devices: int = 1,
        environment: Mapping[str, str] | None = None,
        is_pinned: bool = True,
    ):
        """Starts the process and waits until it is ready to measure. Raises RuntimeError if the task fails; the message
        ends with what it wrote.

        Args:
          task: as find_function takes it. The function takes the options by keyword, makes ready
            (compiles, fills caches), and returns a function that measures once and returns what JSON can hold.
            What ask is given reaches that function; both ways only what JSON can hold.
          options: for it, fit for JSON.
          num_threads: of its products.
          num_devices: of the CPU.
          environment: further variables.
          is_pinned: whether a process of one thread is kept on one core, the same for all that take turns.
        """
        self.task = task
        self._errors = tempfile.TemporaryFile("w+")
        run = (sys.executable, "-m", "kleiber.experiments.bench.partner")
        self.process = subprocess.Popen(
            [*run, task, json.dumps(options or {}), str(int(is_pinned and num_threads == 1))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**Arrangement("kleiber", num_threads, num_devices).environment(), **(environment or {})},
        )
        self._answer()

    def ask(self, *given: Any) -> Any:
        """Returns what one measurement says."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def __call__(self) -> float:
        """Returns one figure."""
        return float(self.ask())

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"{self.task} ended with {code}: {self._errors.read()[-1500:].strip()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.process.wait()
        self._errors.close()

    def __enter__(self) -> "Partner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measure_fresh(task: str, options: Mapping[str, Any] | None = None, **how: Any) -> Any:
    """Returns one measurement of a process that is started for it; arguments as those of Partner."""
    with Partner(task, options, **how) as partner:
        return partner.ask()


def main(arguments: list[str]) -> None:
    """Makes a task ready, says so, and then answers each line by one measurement, until there are no more lines."""
    task, options, is_pinned = arguments
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    if is_pinned == "1" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    measure = find_function(task)(**json.loads(options))
    print("true", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
