"""How fast a shape will train here: as measured before on this machine, else estimated from its matmul speed."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kleiber.experiments.config_file import config_hash
from kleiber.files import read_json, write_json
from kleiber.model.counts import flops_per_token
from kleiber.parallel.environment import num_cores
from kleiber.train.config import TrainConfig
from kleiber.train.data.cache import cache_folder

LARGE_WIDTH_FRACTION = 0.8
WIDTH_SCALE, WIDTH_OFFSET = 35.0, 8.0
"""A single-thread worker reaches LARGE_WIDTH_FRACTION * (1 - exp(-(d_model - 8) / 35)) of one core's matmul speed:
fitted to 16, 25, 32, 40, 47, 49 GFLOP/s at widths 24, 32, 48, 64, 96, 128 on one 2-core machine."""


@dataclass(frozen=True)
class SpeedEstimate:
    """Training speed of one worker by shape."""

    matmul_flops_per_second: float
    measured: dict[str, float]
    """Tokens per second by shape hash, from earlier runs on this machine."""

    def tokens_per_second(self, config: TrainConfig) -> float:
        """Returns training tokens per second of one worker."""
        model, known = config.model, self.measured.get(speed_key(config))
        if known:
            return known
        fraction = LARGE_WIDTH_FRACTION * (1.0 - np.exp(-max(4.0, model.d_model - WIDTH_OFFSET) / WIDTH_SCALE))
        told = flops_per_token(config.teacher.shape) / 3 if config.teacher else 0.0  # its forward pass
        return float(fraction * self.matmul_flops_per_second / (flops_per_token(model) + told))

    def source(self, configs: Sequence[TrainConfig]) -> str:
        """Returns where the seconds of some runs come from, for people."""
        unknown = [config for config in configs if speed_key(config) not in self.measured]
        if any(config.command for config in unknown):
            return "a guess from this machine's matmul rate: a program's own speed is not known until it has run once"
        if not unknown:
            return "speeds measured here before"
        return f"{'some ' if len(unknown) < len(configs) else ''}speeds guessed from this machine's matmul rate"


def speed_key(config: TrainConfig) -> str:
    """Returns the name under which the speed of runs of this shape, and of this trainer, is kept."""
    shape = config_hash(config.model)
    if config.teacher:
        shape += f"-{config_hash(config.teacher.shape)}"
    return f"{shape}-{config_hash(config.command)}" if config.command else shape


TRUSTED_SECONDS = 5.0
"""Seconds of steps from which on what was measured counts more than the plan."""


def measured_pace(expected_pace: float, planned_won: float, measured_seconds: float) -> float:
    """Returns the wall seconds that a planned second of work takes: as expected at first, then ever more as measured.

    It is the expected pace to the power 1 - w times the measured one to the power w = measured_seconds /
    (measured_seconds + TRUSTED_SECONDS): a machine ten times slower or faster than planned is told within a fifth after
    a minute of steps.

    Args:
      expected_pace: the plan's, 1, or what an earlier phase has come to.
      planned_won: seconds that the plan gives what was done since steps began; 0 leaves what is expected.
      measured_seconds: wall seconds at steps since then.
    """
    if planned_won <= 0 or measured_seconds <= 0:
        return expected_pace
    weight = measured_seconds / (measured_seconds + TRUSTED_SECONDS)
    return expected_pace ** (1 - weight) * (measured_seconds / planned_won) ** weight


def estimate_speed() -> SpeedEstimate:
    """Returns the speeds measured before on this machine, and its matmul rate now (takes about 0.2 s)."""
    try:
        measured = read_json(_speed_file())
    except (OSError, ValueError):
        measured = {}
    return SpeedEstimate(matmul_rate(), {k: v for k, v in measured.items() if isinstance(v, float) and v > 0})


def remember_speed(speeds: dict[str, float]) -> None:
    """Keeps tokens per second by shape hash for the next plan on this machine."""
    path = _speed_file()
    write_json(path, {**estimate_speed().measured, **speeds})


def matmul_rate(size: int = 384, repeats: int = 12) -> float:
    """Returns float32 matmul FLOPs per second of one core, the best of a few short products."""
    a = np.ones((size, size), np.float32)
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    single = os.environ.get("OPENBLAS_NUM_THREADS") == "1" or os.environ.get("OMP_NUM_THREADS") == "1"
    return 2.0 * size**3 / best / (1 if single else num_cores())


def _speed_file() -> Path:
    machine = f"{platform.machine()}-{platform.node() or 'host'}"
    return cache_folder() / "speed" / f"{machine}.json"
