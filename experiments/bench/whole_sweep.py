"""Section sweep: a whole sweep against PyTorch, everything included; measured by sweep_speed."""

import importlib
from typing import Any

from kleiber.experiments.bench.figures import Figure
from kleiber.experiments.bench.goals import GOALS
from kleiber.experiments.bench.session import Unavailable
from kleiber.experiments.bench.setting import Setting


def measure_whole_sweep(setting: Setting) -> dict[str, Any]:
    """Returns what sweep_speed.measure_sweep returns, its ratio to PyTorch as a figure."""
    if importlib.util.find_spec("torch") is None:
        raise Unavailable("torch is not installed (pip install 'kleiber[bench]'), and it is what a sweep is held to.")
    measure_sweep = importlib.import_module(f"{__package__}.sweep_speed").measure_sweep
    rounds, scale = (1, 0.01) if setting.is_short else (setting.rounds, setting.sweep_scale)
    found = measure_sweep(rounds=rounds, scale=scale, tell=setting.tell)
    ratio = found["sweep_ratio_to_pytorch"]
    figure = Figure(
        "whole sweep over the better PyTorch arrangement",
        ratio["median"],
        "ratio",
        ratio["low"],
        ratio["high"],
        ratio["rounds"],
        GOALS["sweep over PyTorch"],
    )
    return {"figures": [figure], **found}
