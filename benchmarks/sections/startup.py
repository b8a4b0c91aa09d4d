"""Section startup: how long one waits: for the imports, for `kleiber --help`, and from `kleiber train` to a step.

All are real processes, measured in turns. The start is that of `kleiber train quickstart` with all defaults but the
trunk (the smallest): driver, worker, data, tracing, a warm compilation cache. It ends when the first block of steps
(`steps_per_call`, 64) has been trained and its losses have reached the disk, so the first step was done before; with
`steps_per_call=1` the block is that step.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from kleiber.experiments.bench.figures import Figure, spread_figure
from kleiber.experiments.bench.interleave import Samples, Spread, interleaved, seconds_of, spread_of
from kleiber.experiments.bench.setting import Setting
from sections.goals import GOALS

NAMES = {
    "import_libraries": "import jax, flax, optax",
    "import_libraries_nnx": "the same and flax.nnx",
    "import_kleiber": "import jax, flax, optax and kleiber",
    "import_added": "what kleiber's imports add",
    "import_added_to_nnx": "what they add where flax.nnx is loaded",
    "import_driver": "what the driver of kleiber train imports",
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
LIBRARIES = "import jax, flax, optax"
TRAINING = (
    "import kleiber.experiments.sweeping.worker, kleiber.train.trunk, kleiber.train.data.run_data, "
    "kleiber.train.watch.watchdog"
)
"""What the process of `kleiber train` that computes has loaded when it begins."""
ROOMS = f"{TRAINING}; import kleiber.experiments.sweeping.sweep"
"""The same and what the driver has loaded, which is a process of its own and loads no jax."""
TIME_LIMIT = 180.0


def measure_startup(setting: Setting) -> dict[str, Any]:
    """Returns the seconds of each wait, over rounds in which all take turns."""
    folder = setting.place("startup")
    setting.tell("a first start, which compiles and prepares the corpus")
    samples = interleaved(
        _candidates(folder, folder / "cache"),
        1 if setting.is_short else setting.rounds,
        warm=1,
        each_round=setting.each_round("startup"),
    )
    return {"figures": start_figures(samples)}


def start_figures(samples: Samples) -> list[Figure]:
    """Returns the figures of seconds by candidate, and what our imports add to those of jax, flax and optax."""
    spreads = {name: samples.spread(name) for name in samples.values}
    spreads["import_added"] = difference(samples, "import_kleiber", "import_libraries")
    spreads["import_added_to_nnx"] = difference(samples, "import_kleiber", "import_libraries_nnx")
    return [spread_figure(NAMES[name], spread, "s", GOALS.get(HELD.get(name, ""))) for name, spread in spreads.items()]


def difference(samples: Samples, name: str, reference: str) -> Spread:
    """Returns the spread of name minus reference, taken inside each round."""
    pairs = zip(samples.values[name], samples.values[reference], strict=True)
    return spread_of([one - other for one, other in pairs])


def _candidates(folder: Path, cache: Path) -> Mapping[str, Callable[[], float]]:
    def seconds(*command: str) -> Callable[[], float]:
        return seconds_of(lambda: subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL))

    return {
        "import_libraries": seconds("-c", LIBRARIES),
        "import_libraries_nnx": seconds("-c", f"{LIBRARIES}, flax.nnx"),  # of flax, though `import flax` leaves it
        "import_kleiber": seconds("-c", f"{LIBRARIES}; {ROOMS}"),
        "import_driver": seconds("-c", "import kleiber.experiments.commands.train, kleiber.experiments.sweeping.sweep"),
        "help": seconds("-m", "kleiber.experiments.cli", "--help"),
        "train_help": seconds("-m", "kleiber.experiments.cli", "train", "--help"),
        "first_block": lambda: start_seconds(folder / uuid.uuid4().hex, cache),
        "first_step": lambda: start_seconds(folder / uuid.uuid4().hex, cache, "--set", "steps_per_call=1"),
    }


def start_seconds(directory: Path, cache: Path, *options: str) -> float:
    """Returns the seconds from the start of `kleiber train quickstart` to its first line in the step log.

    Args:
      directory: of the run; new.
      cache: folder of corpora and compiled programs (KLEIBER_CACHE).
      options: more options of `kleiber train`.

    Raises:
      RuntimeError: the run ended, or TIME_LIMIT passed, before it logged a step.
    """
    command = [sys.executable, "-m", "kleiber.experiments.cli", "train", "quickstart", "--json", *options]
    environment = {**os.environ, "KLEIBER_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # a folder of the user's own may be warm before we are
    started = perf_counter()
    process = subprocess.Popen(
        [*command, "--out", str(directory)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not any(directory.glob("runs/*/metrics.jsonl")):
            if process.poll() is not None or perf_counter() - started > TIME_LIMIT:
                raise RuntimeError(f"no step was logged in {perf_counter() - started:.0f} s; see {directory}/log.txt")
            sleep(0.01)
        return perf_counter() - started
    finally:
        process.terminate()  # saves and leaves
        process.wait()
