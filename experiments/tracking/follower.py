"""A thread that reads a sweep's logs as they grow and hands them to a tracker.

The queue between training and tracker is the log on disk: what is not shown yet is read later, a little at a time, so
that a slow tracker costs neither memory nor speed, and one that is broken is told of once and left alone.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kleiber.experiments.tracking.tracker import Tracker, open_tracker
from kleiber.files import read_json, write_json
from kleiber.train.watch.metrics import rows_after

LOOK_SECONDS = 2.0
LEAVE_SECONDS = 10.0
"""A tracker has at the end of a phase for what is left; the rest is shown by a later launch."""
NOT_VALUES = ("step", "segment")
MEASURED = ("loss", "loss_standard_error", "bits_per_byte")
"""Columns of a record that are shown, as validation_NAME."""


@contextlib.contextmanager
def following(directory: Path, names: Sequence[str], warn: Callable[[str], None]) -> Iterator[None]:
    """Shows a sweep's runs in some trackers while what stands below goes on."""
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(Follower(directory, name, partial(open_tracker, name, directory), warn))
        yield


class Follower:
    """Shows the runs of one directory in one tracker, from entering to leaving."""

    def __init__(self, directory: Path, name: str, opened: Callable[[], Tracker], warn: Callable[[str], None]):
        """Prepares; nothing is opened before there is something to show.

        Args:
          directory: of the sweep.
          name: of the tracker.
          opened: makes it.
          warn: takes a sentence for the user.
        """
        self.directory, self.name, self.opened, self.warn = directory, name, opened, warn
        self.state = directory / "tracking" / f"{''.join(c if c.isalnum() else '_' for c in name)}.json"
        self.tracker: Tracker | None = None
        self.begun: set[str] = set()
        self.places: dict[str, int] = {}
        """Bytes of each log that were read."""
        self.leave = threading.Event()
        self.thread = threading.Thread(target=self._follow, name=f"kleiber-track-{name}", daemon=True)
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            known = read_json(self.state)
        self.steps: dict[str, int] = known.get("steps", {})
        """The last step of each run that was shown: a resume logs some again."""
        self.ended: set[str] = set(known.get("ended", ()))

    def __enter__(self) -> "Follower":
        self.thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.leave.set()
        self.thread.join(LEAVE_SECONDS)
        if self.thread.is_alive():
            self.warn(f"tracker {self.name} is slow: what it has not shown yet is shown when the sweep goes on")

    def _follow(self) -> None:
        try:
            is_last = False
            while not is_last:
                is_last = self.leave.wait(LOOK_SECONDS)
                self._look()
            if self.tracker:
                self.tracker.close()
        except Exception as problem:  # whatever it is, the runs go on
            with contextlib.suppress(Exception):
                text = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
                self.warn(f"tracker {self.name} failed and is left out from here on: {text}")

    def _look(self) -> None:
        """Shows what is new since the last look."""
        before = (sum(self.steps.values()), len(self.ended))
        for folder in sorted((self.directory / "runs").glob("[!.]*")):
            if folder.name not in self.ended:
                self._log(folder)
                self._record(folder)
        if (sum(self.steps.values()), len(self.ended)) != before:
            write_json(self.state, {"steps": self.steps, "ended": sorted(self.ended)})

    def _log(self, folder: Path) -> None:
        """Shows new rows of a trunk's log: the trunk as a run of its name, each branch as one below it."""
        path = folder / "metrics.jsonl"
        if not path.exists():
            return
        rows, self.places[folder.name] = rows_after(path, self.places.get(folder.name, 0))
        for row in rows:
            run = folder.name if row["segment"] == "trunk" else f"{folder.name}/{row['segment']}"
            if row["step"] > self.steps.get(run, 0):
                values = {name: value for name, value in row.items() if name not in NOT_VALUES}
                self._show(run, folder / "config.json", row["step"], values)

    def _record(self, folder: Path) -> None:
        """Shows what was measured at a point, as a run of its name, once it is there; its trunk ends with its last."""
        path = folder / "record.json"
        if not path.exists():
            return
        record = read_json(path)
        values = {f"validation_{name}": record.get(name) for name in MEASURED}
        self._show(folder.name, folder / "config.json", record["num_steps"], values)
        self._end(folder.name)
        trunk, branch = record["trunk_id"], f"{record['trunk_id']}/branch_{folder.name.rpartition('-D')[2]}"
        self._end(branch)
        counts = read_json(folder / "config.json").get("trunk", {}).get("num_tokens", [])
        if all(f"{trunk}-D{count}" in self.ended for count in counts):
            self._log(folder.with_name(trunk))
            self._end(trunk)

    def _show(self, run: str, config: Path, step: int, values: dict[str, Any]) -> None:
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if self.tracker is None:
            self.tracker = self.opened()
        if run not in self.begun:
            data = read_json(config) if config.exists() else {}
            self.tracker.begin(run, _plain(data.get("trunk", data)))
            self.begun.add(run)
        if numbers:
            self.tracker.log(run, step, numbers)
        self.steps[run] = step

    def _end(self, run: str) -> None:
        if run in self.begun and self.tracker:
            self.tracker.end(run)
        self.ended.add(run)


def _plain(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the plain values of a config by dotted names; lists as text."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _plain(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value if isinstance(value, int | float | str) else str(value)
    return found
