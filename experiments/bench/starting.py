"""Section startup: imports, `kleiber --help`, and the way to the first step; measured by startup."""

import importlib
from collections.abc import Iterator
from typing import Any

from kleiber.experiments.bench.figures import Figure, Goal
from kleiber.experiments.bench.goals import GOALS
from kleiber.experiments.bench.setting import Setting


def measure_starting(setting: Setting) -> dict[str, Any]:
    """Returns what startup.measure_startup returns; every spread in it is a figure."""
    measure_startup = importlib.import_module(f"{__package__}.startup").measure_startup
    found = measure_startup(rounds=1 if setting.is_short else setting.rounds)
    figures = [
        Figure(name, row["median"], "s", row["low"], row["high"], row.get("rounds"), _goal(name))
        for name, row in _spreads(found)
    ]
    return {"figures": figures, **found}


def _spreads(found: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every {"median", "low", "high"} inside nested data, with the way to it."""
    if not isinstance(found, dict):
        return
    if {"median", "low", "high"} <= found.keys():
        yield path, found
        return
    for key, value in found.items():
        yield from _spreads(value, f"{path} {key}".strip().replace("_", " "))


def _goal(name: str) -> Goal | None:
    """Returns the goal of a spread by the words of its name."""
    words = {"first step": "start to first step", "help": "help", "import over": "import over jax, flax and optax"}
    return next((GOALS[goal] for word, goal in words.items() if word in name), None)
