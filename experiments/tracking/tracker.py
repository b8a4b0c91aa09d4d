"""What a tracker is, and which there are: one of ours, or anybody's class of four methods."""

import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

OURS = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""Names of trackers, and the package that each needs; a file of each name lies here."""


class Tracker(Protocol):
    """Shows runs. It is made with the sweep's directory, used by one thread of its own, and may raise or be slow."""

    def begin(self, run: str, config: Mapping[str, Any]) -> None:
        """Begins a run, or goes on with one of an earlier launch; config has plain values by dotted names."""

    def log(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Shows numbers of a step; steps of a run increase."""

    def end(self, run: str) -> None:
        """Ends a run; nothing more is logged to it."""

    def close(self) -> None:
        """Ends every run and writes what is left."""


def found_trackers() -> tuple[str, ...]:
    """Returns what is used where nobody says: TensorBoard, if it is installed."""
    return ("tensorboard",) if importlib.util.find_spec(OURS["tensorboard"]) else ()


def check_tracker(name: str) -> None:
    """Checks that there is a tracker of a name, before anything is spent.

    Raises:
      ValueError: no such name (with the nearest), file or class, or its package is not installed.
    """
    if ":" in name:
        _own(name)
    elif name not in OURS:
        near = difflib.get_close_matches(name, [*OURS, "none"], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"--track {name}: expected {', '.join(OURS)}, none, or my_tracker.py:MyTracker{hint}")
    elif importlib.util.find_spec(OURS[name]) is None:
        raise ValueError(f"--track {name} needs {OURS[name]}: pip install {OURS[name]}.")


def open_tracker(name: str, directory: Path) -> Tracker:
    """Returns the tracker of a name that `check_tracker` passed, for a sweep's directory."""
    if ":" in name:
        return _own(name)(directory)
    module = importlib.import_module(f"kleiber.experiments.tracking.{name}")
    return module.open_here(directory)


def _own(place: str) -> Any:
    from kleiber.scaling.own_law.function import load_callable

    return load_callable(place, "tracker")
