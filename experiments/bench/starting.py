"""Section startup: imports, `kleiber --help`, and the way to the first step; measured by startup."""

import importlib
from typing import Any

from kleiber.experiments.bench.figures import Figure
from kleiber.experiments.bench.goals import GOALS
from kleiber.experiments.bench.setting import Setting

NAMES = {
    "import_libraries": "import jax, flax, optax",
    "import_kleiber": "the same and kleiber",
    "import_added": "what kleiber's imports add",
    "help": "kleiber --help",
    "train_help": "kleiber train --help",
    "first_step": "kleiber train, warm, to its first step",
    "first_block": "kleiber train, warm, to its first 64 steps",
}
HELD = {
    "import_added": "import over jax, flax and optax",
    "help": "help",
    "first_step": "start to first step",
    "first_block": "start to first step",
}
"""The goal of each wait that has one."""


def measure_starting(setting: Setting) -> dict[str, Any]:
    """Returns what startup.measure_startup returns, with its seconds as figures."""
    measure_startup = importlib.import_module(f"{__package__}.startup").measure_startup
    rounds = 1 if setting.is_short else setting.rounds
    found = measure_startup(rounds=rounds)
    return {"figures": start_figures(found, rounds), **found}


def start_figures(found: dict[str, Any], rounds: int) -> list[Figure]:
    """Returns the figures of startup.measure_startup: {"seconds": {name: spread}, "import_added": spread}."""
    spreads = {**found["seconds"], "import_added": found["import_added"]}
    return [
        Figure(
            NAMES.get(name, name),
            row["median"],
            "s",
            row["low"],
            row["high"],
            row.get("rounds", rounds),
            GOALS.get(HELD.get(name, "")),
        )
        for name, row in spreads.items()
    ]
