"""Section checkpoint: a verified, durable save against plain Orbax, and how long a save holds up the training."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kleiber.experiments.bench.figures import Figure, spread_figure
from kleiber.experiments.bench.interleave import Samples
from kleiber.experiments.bench.partner import measure_fresh
from kleiber.experiments.bench.setting import Setting
from kleiber.parallel.environment import num_cores
from kleiber.train.config import TrainConfig
from sections.goals import GOALS

SHAPE = (512, 1024)
"""Of an array of 2 MB; 24 of them, 50 MB, are the state that the failure tests time too."""


def save_seconds(folder: str, rounds: int) -> Callable[[], dict[str, list[float]]]:
    """Returns a function that times saves as `make chaos` does: seconds of every round, ours and Orbax's."""
    from chaos.checkpoints import time_saves

    def measure() -> dict[str, list[float]]:
        time_saves(folder, rounds)
        return json.loads((Path(folder) / "seconds.json").read_text())

    return measure


def stall_seconds(
    folder: str, rounds: int, num_arrays: int, shape: tuple[int, ...] = SHAPE
) -> Callable[[], dict[str, list[float]]]:
    """Returns a function that saves beside the training: seconds until it goes on, and until all is on the disk."""
    import jax.numpy as jnp

    from kleiber.train.checkpoints.saver import Saver

    def measure() -> dict[str, list[float]]:
        saver = Saver(keep=1, identity={}, interval_seconds=1e9)  # so long that no save is waited for
        seconds: dict[str, list[float]] = {"stall": [], "save": []}
        for step in range(rounds + 1):  # the first is waited for, as the saver knows nothing of its length
            state = {f"w{i}": jnp.full(tuple(shape), step + i, jnp.float32) for i in range(num_arrays)}
            for array in state.values():
                array.block_until_ready()
            start = time.perf_counter()
            saver.start(Path(folder), step, state, {})
            stalled = time.perf_counter() - start
            saver.wait()
            if step:
                seconds["stall"].append(stalled)
                seconds["save"].append(time.perf_counter() - start)
        return seconds

    return measure


def measure_saving(setting: Setting) -> dict[str, Any]:
    """Returns seconds of a save, its ratio to plain Orbax, and the stall; with all cores, as a save has them."""
    rounds = setting.rounds if setting.is_short else max(setting.rounds, 15)  # a disk is noisier than a core
    cores, megabytes = num_cores(), 24 * SHAPE[0] * SHAPE[1] * 4 / 1e6
    setting.tell(f"{rounds} saves of {megabytes:.0f} MB, ours and Orbax's in turns")
    options = {"folder": str(setting.place("saves")), "rounds": rounds}
    saves = Samples(measure_fresh("sections.saving:save_seconds", options, num_threads=cores))
    setting.tell(f"{rounds} saves beside the training")
    options = {"folder": str(setting.place("stalls")), "rounds": rounds, "num_arrays": 24}
    stalls = Samples(measure_fresh("sections.saving:stall_seconds", options, num_threads=cores))
    window = TrainConfig.checkpoint_seconds
    stall = stalls.spread("stall").times(1 / window)
    verified = saves.ratio("ours", "orbax")
    figures: list[Figure] = [
        spread_figure(f"verified save, {megabytes:.0f} MB", saves.spread("ours"), "s"),
        spread_figure(f"plain Orbax, {megabytes:.0f} MB", saves.spread("orbax"), "s"),
        spread_figure("verified over plain Orbax", verified, "ratio", GOALS["verified checkpoint over plain Orbax"]),
        spread_figure("stall of a save beside the training", stalls.spread("stall"), "s"),
        spread_figure("stall over the whole save", stalls.ratio("stall", "save"), "ratio"),
        spread_figure(f"stall over the {window:.0f} s between saves", stall, "of time", GOALS["stall of a save"]),
    ]
    return {"figures": figures, "seconds": {**saves.values, **stalls.values}}
