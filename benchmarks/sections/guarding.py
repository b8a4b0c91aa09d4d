"""Section guard: what leaving out updates that are not finite costs, with and without, step for step in turns."""

import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from kleiber.experiments.bench.figures import Figure
from kleiber.experiments.bench.interleave import Samples, interleaved, seconds_of
from kleiber.experiments.bench.partner import measure_fresh
from kleiber.experiments.bench.setting import Setting
from kleiber.experiments.bench.timed_steps import TimedSteps, training_config
from sections.goals import GOALS

SHAPE = {"model": {"d_model": 128, "num_layers": 2, "num_heads": 4}, "batch_size": 8, "steps_per_call": 2}
SHORT_SHAPE = {"model": {"d_model": 8, "num_layers": 1, "num_heads": 1, "seq_len": 16}, "batch_size": 2}
ROUNDS, SHORT_ROUNDS = 150, 4


def paired_steps(rounds: int, **config: Any) -> Callable[[], dict[str, list[float]]]:
    """Returns a function that trains with the guard and without in turns: seconds of every call."""
    guarded = TimedSteps(training_config(**config))
    with mock.patch("kleiber.train.step.judge", _trust), mock.patch("kleiber.train.step.choose", _take):
        bare = TimedSteps(training_config(**config))

    def measure() -> dict[str, list[float]]:
        candidates = {"guarded": seconds_of(guarded.train), "bare": seconds_of(bare.train)}
        return {name: list(values) for name, values in interleaved(candidates, rounds, warm=3).values.items()}

    return measure


def _trust(config: Any, window: Any, loss: Any, grads: Any) -> tuple[Any, Any, Any]:
    """In place of kleiber.train.update.guard.judge while a block is traced: looks at nothing, the norm included."""
    import jax.numpy as jnp

    return jnp.array(True), jnp.zeros(()), window


def _take(is_sound: Any, new: Any, old: Any) -> Any:
    """In place of kleiber.train.update.guard.choose: the update, whatever it is."""
    return new


def measure_guarding(setting: Setting) -> dict[str, Any]:
    """Returns the median of the paired ratios on one core, with a 95 % interval from the sign test."""
    rounds = SHORT_ROUNDS if setting.is_short else max(ROUNDS, setting.rounds)
    setting.tell(f"{rounds} pairs of steps")
    options = {"rounds": rounds, **(SHORT_SHAPE if setting.is_short else SHAPE)}
    samples = Samples(measure_fresh("sections.guarding:paired_steps", options))
    ratios = samples.paired_ratios("guarded", "bare")
    low, high = median_interval(ratios)
    spread, step = samples.ratio("guarded", "bare"), samples.spread("guarded")
    figures = [
        Figure("two steps with the guard", step.median * 1e3, "ms", step.low * 1e3, step.high * 1e3, rounds),
        Figure("with over without", spread.median, "ratio", low, high, rounds, GOALS["guard"],
               "low - high: 95 % interval of the median"),
    ]  # fmt: skip
    return {"figures": figures, "quartiles": spread.as_dict(), "interval_95": [low, high]}


def median_interval(figures: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Returns an interval for the true median, from the sign test: no assumption on how the figures are spread.

    Each figure lies below the true median with probability 1/2, so the k-th smallest and k-th largest enclose it
    unless at most k - 1 of n fell on one side. Of very few figures (under 6 at 95 %) the whole range is returned.
    """
    ordered = sorted(figures)
    count, rank, outside = len(ordered), 0, 0.0
    while rank < (count - 1) // 2:
        outside += 2 * math.comb(count, rank) / 2**count
        if outside > 1 - level:
            break
        rank += 1
    rank = max(rank - 1, 0)
    return ordered[rank], ordered[count - 1 - rank]
