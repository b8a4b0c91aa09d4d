"""Section fit: 4,500 starts and 1,000 refits, beside scipy's L-BFGS-B from the same starts on the same runs."""

import itertools
import time
from collections.abc import Callable
from typing import Any

from kleiber.experiments.bench.figures import spread_figure
from kleiber.experiments.bench.interleave import interleaved, seconds_of
from kleiber.experiments.bench.setting import Setting, Unavailable
from sections.goals import GOALS

SHARE = 20
"""Starts of thousands that scipy is given in a round; its seconds for all are so many times more."""


def measure_fitting(setting: Setting) -> dict[str, Any]:
    """Returns our wall seconds, scipy's, and the ratio, by task of truth.speed and by table."""
    from kleiber.scaling.table.table import read_table
    from truth import speed

    if not speed.RUNS.exists():
        raise Unavailable("the table of runs is in tests/data of the source; run it from a checkout.")
    tables = list(speed.TABLES.items())[: 1 if setting.is_short else None]
    figures = []
    for label, drop in tables:
        large = [task for task in speed.tasks(read_table(speed.RUNS, speed.COLUMNS, drop)) if task.num_theirs > SHARE]
        for task in large:
            samples = interleaved(
                {"ours": seconds_of(task.ours), "scipy": _scipy(task)},
                setting.rounds,
                warm=0 if setting.is_short else 1,
                each_round=setting.each_round(f"{label}, {task.name}"),
            )
            goal = GOALS["4,500 starts" if task.num_theirs == speed.NUM_STARTS else "1,000 refits"]
            figures += [
                spread_figure(f"{label}: {task.name}", samples.spread("ours"), "s", goal),
                spread_figure("  scipy over ours", samples.ratio("scipy", "ours"), "ratio", note=task.how),
            ]
    return {"figures": figures, "share_of_scipy": SHARE}


def _scipy(task: Any) -> Callable[[], float]:
    """Returns a candidate: scipy's seconds for the whole task, from the next SHARE of its starts."""
    starts = itertools.cycle(range(task.num_theirs))

    def measure() -> float:
        begin = time.perf_counter()
        for index in itertools.islice(starts, SHARE):
            task.theirs(index)
        return (time.perf_counter() - begin) * task.num_theirs / SHARE

    return measure
