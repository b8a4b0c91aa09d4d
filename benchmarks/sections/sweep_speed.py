"""Section sweep: the quickstart's runs next to PyTorch, from the first process to the last, everything included.

Same shapes, tokens, batches, schedule, branches and validation windows, seed by seed; kleiber also keeps checkpoints,
metrics and records, and PyTorch does not. Neither writes a report. At scale 1 kleiber starts with an empty compilation
cache each time, and the arrangement of PyTorch that is slower on a fiftieth of the tokens is left out. Below, where
tokens shrink and compilation could not, kleiber starts with a warm cache, and both arrangements are measured.
"""

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from kleiber.experiments.bench.figures import Figure
from kleiber.experiments.bench.interleave import interleaved, seconds_of
from kleiber.experiments.bench.partner import Partner
from kleiber.experiments.bench.setting import Setting, Unavailable
from kleiber.experiments.directory.record import read_records
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.parallel.environment import num_cores
from kleiber.train.config import TrainConfig
from sections.goals import GOALS

Losses = dict[tuple[str, int], float]
"""Validation loss by trunk and tokens asked for."""


def experiment_of(scale: float) -> Experiment:
    """Returns the quickstart's runs, targets too, as plain trunks with so much of their tokens."""
    from kleiber.experiments.configs.quickstart import experiment

    quickstart = experiment()

    def scaled(config: TrainConfig) -> TrainConfig:
        evaluation = replace(config.evaluation, num_tokens=int(config.evaluation.num_tokens * scale))
        counts = tuple(round(tokens * scale) for tokens in config.num_tokens)
        warmup = min(config.schedule.warmup_steps, config.steps_at(counts[0]) // 4)
        schedule = replace(config.schedule, warmup_steps=warmup)
        return replace(config, num_tokens=counts, evaluation=evaluation, schedule=schedule)

    trunks = (*quickstart.trunks, *(target.train for target in quickstart.targets))
    return Experiment("sweep_speed", quickstart.question, tuple(map(scaled, trunks)), laws=())


class Sweep:
    """One set of runs, and how each side trains it."""

    def __init__(self, setting: Setting, scale: float):
        self.setting, self.is_warm = setting, scale < 1
        self.cells = trunk_cells(experiment_of(scale), "fit")  # the largest first, as kleiber's own workers take them
        self.config_file = setting.place("sweep") / "sweep_speed.py"
        self.config_file.write_text(
            "from kleiber.experiments.bench.setting import find_function\n\n\ndef experiment():\n"
            f"    return find_function('sections.sweep_speed:experiment_of')({scale!r})\n"
        )
        self.losses: dict[str, Losses] = {}

    def kleiber(self) -> None:
        """Runs `kleiber sweep`.

        Raises:
          RuntimeError: if it fails; the message holds the end of what it wrote.
        """
        self.setting.tell("kleiber")
        folder = self.setting.place("out")
        cache = self.config_file.parent if self.is_warm else folder
        command = [
            sys.executable,
            "-m",
            "kleiber.experiments.cli",
            "sweep",
            str(self.config_file),
            "--no-report",
            "--json",
        ]
        done = subprocess.run(
            [*command, "--out", str(folder / "sweep")],
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache / "compiled")},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"kleiber sweep ended with {done.returncode}: {done.stderr[-2000:]}")
        names = {cell.run_ids[tokens]: (cell.trunk_id, tokens) for cell in self.cells for tokens in cell.run_ids}
        records = read_records(folder / "sweep")
        self.losses["kleiber"] = {names[r.run_id]: r.loss for r in records if r.loss is not None}

    def torch(self, name: str, num_workers: int, num_threads: int) -> None:
        """Runs PyTorch workers, each taking the next trunk.

        Raises:
          RuntimeError: if one fails; the message holds the end of what it wrote.
        """
        self.setting.tell(name)
        waiting = [cell.trunk_id for cell in self.cells]
        options = {"config_file": str(self.config_file), "num_threads": num_threads}

        def serve() -> Losses:
            found: Losses = {}
            with Partner("sections.torch_sweep:trunks", options, num_threads, is_pinned=False) as worker:
                while waiting:
                    trunk = waiting.pop(0)
                    found |= {(trunk, int(tokens)): loss for tokens, loss in worker.ask(trunk).items()}
            return found

        with ThreadPoolExecutor(num_workers) as pool:
            parts = [future.result() for future in [pool.submit(serve) for _ in range(num_workers)]]
        self.losses[name] = functools.reduce(lambda one, other: one | other, parts)

    def by_torch(self, peers: Mapping[str, tuple[int, int]]) -> dict[str, Callable[[], None]]:
        """Returns by name what trains the runs in that arrangement: its workers, and the threads of each."""
        return {name: functools.partial(self.torch, name, *arrangement) for name, arrangement in peers.items()}


def _timed(runs: Mapping[str, Callable[[], None]], setting: Setting) -> dict[str, Callable[[], float]]:
    """Returns by name a candidate that does the run, tells its seconds and returns them."""

    def candidate(name: str) -> Callable[[], float]:
        def measure() -> float:
            seconds = seconds_of(runs[name])()
            setting.tell(f"{name}: {seconds:.0f} s")
            return seconds

        return measure

    return {name: candidate(name) for name in runs}


def measure_sweep(setting: Setting) -> dict[str, Any]:
    """Returns seconds and tokens per second of the whole set of runs in each arrangement, and kleiber's ratio to the
    better of PyTorch's.

    Raises:
      Unavailable: without PyTorch.
    """
    if importlib.util.find_spec("torch") is None:
        raise Unavailable("torch is not installed (pip install 'kleiber[bench]'), and it is what a sweep is held to.")
    rounds, scale = (1, 0.01) if setting.is_short else (setting.rounds, setting.sweep_scale)
    sweep, cores = Sweep(setting, scale), num_cores()
    peers = {f"PyTorch, {cores} one-thread workers": (cores, 1), f"PyTorch, one process of {cores} threads": (1, cores)}
    if setting.is_short:  # two threads that wait for each other take minutes where others use the cores
        del peers[f"PyTorch, one process of {cores} threads"]
    tried = None
    if sweep.is_warm:
        sweep.kleiber()  # fills the compilation cache
    else:
        tried = interleaved(_timed(Sweep(setting, 0.02).by_torch(peers), setting), 1)
        fastest = min(peers, key=lambda name: tried.spread(name).median)
        peers = {fastest: peers[fastest]}
    candidates = _timed({"kleiber": sweep.kleiber, **sweep.by_torch(peers)}, setting)
    samples = interleaved(candidates, rounds, each_round=setting.each_round("sweep", rounds))
    better = min(peers, key=lambda name: samples.spread(name).median)
    ratio = samples.ratio(better, "kleiber")
    differences = [sweep.losses[better][point] / loss - 1 for point, loss in sweep.losses["kleiber"].items()]
    tokens = sum(cell.trained_tokens for cell in sweep.cells)
    name = f"whole sweep over {better}"
    return {
        "figures": [Figure(name, ratio.median, "ratio", ratio.low, ratio.high, rounds, GOALS["sweep over PyTorch"])],
        "scale": scale,
        "runs": len(sweep.cells),
        "points": len(differences),
        "trained_tokens": tokens,
        "compilation_cache": "warm" if sweep.is_warm else "empty at each start",
        "seconds": samples.as_dict(),
        "tokens_per_second": {name: tokens / samples.spread(name).median for name in candidates},
        "better_torch_arrangement": better,
        "seconds_of_a_fiftieth": None if tried is None else tried.as_dict(),
        "loss_difference": {
            "root_mean_square": float(np.sqrt(np.mean(np.square(differences)))),
            "largest": float(np.max(np.abs(differences))),
        },
        "sweep_ratio_to_pytorch": ratio.as_dict(),
    }
