"""How long one waits: for the imports, for `kleiber --help`, and from `kleiber train` to the first optimizer step.

All are real processes, measured in turns. The start is that of `kleiber train quickstart` with all defaults but the
trunk (the smallest): driver, worker, data, tracing, a warm compilation cache. It ends when the first block of steps
(`steps_per_call`, 64) has been trained and its losses have reached the disk, so the first step was done before; with
`steps_per_call=1` the block is that step.

Example: python -m kleiber.experiments.bench.startup --rounds 5
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from kleiber.experiments.bench.interleave import Samples, interleaved, spread_of
from kleiber.experiments.record import versions

LIBRARIES = "import jax, flax, optax"
TRAINING = "import kleiber.experiments.worker, kleiber.train.trunk, kleiber.train.run_data, kleiber.train.watchdog"
"""What the process of `kleiber train` that computes has loaded when it begins."""
ROOMS = f"{TRAINING}; import kleiber.experiments.sweep"
"""The same and what the driver has loaded, which is a process of its own and loads no jax."""
MOST_IMPORT, MOST_HELP, MOST_START = 0.5, 0.5, 5.0
"""Seconds: goals for what our imports add, for the help, and for the warm start."""
TIME_LIMIT = 180.0


def measure_startup(rounds: int = 5) -> dict[str, Any]:
    """Returns the seconds of each wait: median and quartiles over rounds in which all take turns.

    Returns:
      {"seconds": {name: {"median", "low", "high", "rounds"}}, "import_added": the same of what our imports add to those
      of jax, flax and optax within each round, "import_added_to_nnx": what they add where flax.nnx is loaded already,
      "goals": {name: {"limit", "value", "holds"}}, and load, date, machine and versions}.
    """
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="kleiber-startup-") as folder:
        cache = Path(folder) / "cache"
        # The first start compiles and prepares the corpus; `interleaved` throws its round away.
        samples = interleaved(_candidates(Path(folder), cache), rounds, warm=1)
    ours = interleaved_difference(samples, "import_kleiber", "import_libraries")
    seconds = samples.as_dict()
    values = {
        "import_added": (MOST_IMPORT, ours["median"]),
        "help": (MOST_HELP, seconds["help"]["median"]),
        "first_step": (MOST_START, seconds["first_step"]["median"]),
        "first_block": (MOST_START, seconds["first_block"]["median"]),
    }
    return {
        "seconds": seconds,
        "import_added": ours,
        "import_added_to_nnx": interleaved_difference(samples, "import_kleiber", "import_libraries_nnx"),
        "goals": {
            name: {"limit": limit, "value": value, "holds": value <= limit} for name, (limit, value) in values.items()
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_before": load,
        "load_average_after": os.getloadavg(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
    }


def interleaved_difference(samples: Samples, name: str, reference: str) -> dict[str, float | int]:
    """Returns the spread of name minus reference, taken inside each round."""
    pairs = zip(samples.values[name], samples.values[reference], strict=True)
    return spread_of([one - other for one, other in pairs]).as_dict()


def _candidates(folder: Path, cache: Path) -> Mapping[str, Callable[[], float]]:
    def seconds(*command: str) -> Callable[[], float]:
        def timed() -> float:
            started = perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            return perf_counter() - started

        return timed

    return {
        "import_libraries": seconds("-c", LIBRARIES),
        "import_libraries_nnx": seconds("-c", f"{LIBRARIES}, flax.nnx"),  # of flax, though `import flax` leaves it
        "import_kleiber": seconds("-c", f"{LIBRARIES}; {ROOMS}"),
        "import_driver": seconds("-c", "import kleiber.experiments.commands.train, kleiber.experiments.sweep"),
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    print(json.dumps(measure_startup(parser.parse_args().rounds), indent=1))
