"""The one way to compare on a shared machine: candidates take turns, and ratios are taken inside each round.

The load of a laptop or a shared node moves a measurement by a factor of two within a minute. Two candidates measured
next to each other see nearly the same load, so the ratio of a round is steady where the seconds are not. Every other
round runs backwards: a load that rises steadily then helps each candidate as often as it hurts.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The middle of some figures and how far they lie apart; quartiles, so that one disturbed round does not count."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    rounds: int

    def as_dict(self) -> dict[str, float | int]:
        """Returns {"median", "low", "high", "rounds"}, as results keep it."""
        return dict(vars(self))

    def times(self, factor: float) -> "Spread":
        """Returns the spread in another unit; the factor is positive."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.rounds)


@dataclass(frozen=True)
class Samples:
    """One figure per candidate and round; the same position in two lists is the same round."""

    values: Mapping[str, Sequence[float]]

    def spread(self, name: str) -> Spread:
        """Returns the median and quartiles of one candidate."""
        return spread_of(self.values[name])

    def paired_ratios(self, name: str, reference: str) -> list[float]:
        """Returns name / reference, round by round."""
        return [one / other for one, other in zip(self.values[name], self.values[reference], strict=True)]

    def ratio(self, name: str, reference: str) -> Spread:
        """Returns the median and quartiles of the paired ratios name / reference (not the ratio of two medians)."""
        return spread_of(self.paired_ratios(name, reference))

    def as_dict(self) -> dict[str, dict[str, float | int]]:
        """Returns the spread of every candidate, by name."""
        return {name: self.spread(name).as_dict() for name in self.values}


def interleaved(
    candidates: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    warm: int = 0,
    each_round: Callable[[int], None] | None = None,
) -> Samples:
    """Returns the figures of every candidate, measured in turns: a b c, c b a, a b c, ... Raises ValueError without
    candidates or rounds, or when a figure is not a positive number (no ratio could be taken).

    Args:
      candidates: by name, a function that measures once and returns its figure (seconds, or tokens per second); see
        `seconds_of` for a plain function to time.
      rounds: how often each is measured, at least 1.
      warm: rounds run first and thrown away (compilation, caches).
      each_round: called with the number of rounds done after each kept round, for a progress line.
    """
    if not candidates or rounds < 1:
        raise ValueError(f"give at least one candidate and one round; got {list(candidates)} and {rounds} rounds")
    values: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(-warm, rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            figure = float(candidates[name]())
            if not (math.isfinite(figure) and figure > 0):
                raise ValueError(f"'{name}' measured {figure} in round {turn + 1}; a figure is a positive number")
            if turn >= 0:
                values[name].append(figure)
        if turn >= 0 and each_round is not None:
            each_round(turn + 1)
    return Samples(values)


def seconds_of(function: Callable[[], object]) -> Callable[[], float]:
    """Returns a candidate that calls `function` once and gives its wall seconds (it must wait for its own results)."""

    def timed() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return timed


def spread_of(figures: Sequence[float]) -> Spread:
    """Returns the median and quartiles; of a single figure, that figure three times."""
    ordered = sorted(figures)
    if len(ordered) == 1:
        return Spread(ordered[0], ordered[0], ordered[0], 1)
    low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(median, low, high, len(ordered))
