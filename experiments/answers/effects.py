"""The effect of a factor by paired differences: pairs of runs alike in everything else, seeds included."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kleiber.experiments.answers.study_runs import StudyRuns
from kleiber.experiments.planning.varied import Factor, Level, is_number
from kleiber.scaling.fitting.estimates import t_quantile

LEVEL = 0.95
MOST_PAIRS = 200
"""Pairs up to which it is said how many would tell."""
FEW_PAIRS = 4
"""Pairs below which their own spread says little of the noise: at two of them an interval is six times too wide."""
TUNED_LEVELS = 3
"""Levels of an optimizer's number from which on other factors are compared at the best of them."""


@dataclass(frozen=True)
class Pair:
    """The mean difference of the runs of one pair of trunks at one place."""

    place: tuple[tuple[str, Level], ...]
    """Levels of the other factors."""
    seed: int | None
    """None where no seed is shared: the runs of all seeds there are averaged."""
    difference: float
    """At the level less at the level compared with."""
    trunks: tuple[str, str]


@dataclass(frozen=True)
class Effect:
    """What one level costs against another."""

    level: Level
    against: Level
    pairs: tuple[Pair, ...]
    mean: float
    interval: tuple[float, float] | None
    """t interval over pairs of trunks, of fewer than FEW_PAIRS by the noise of seeds; None where no seed was repeated
    and fewer than three pairs of trunks exist."""
    num_units: int
    """Pairs of trunks: points of one trunk share its noise and count once."""
    spread: float | None = None
    """Standard deviation of the difference of one pair, behind the interval."""
    differs: bool = False
    """Whether seeds tell that the difference is another at one combination of the other factors than at another."""

    @property
    def places(self) -> dict[tuple[tuple[str, Level], ...], float]:
        """The mean difference at each combination of the other factors."""
        return _means((pair.place, pair.difference) for pair in self.pairs)

    @property
    def is_seen(self) -> bool | None:
        """Whether the interval excludes zero; None without one."""
        return None if self.interval is None else not self.interval[0] <= 0 <= self.interval[1]


def tuned_factors(study: StudyRuns) -> list[Factor]:
    """Returns the optimizer's numbers of three levels or more: others are compared at the best of them."""
    return [
        each
        for each in study.factors
        if each.path.startswith("optimizer.") and len(each.levels) >= TUNED_LEVELS and all(map(is_number, each.levels))
    ]


def effect(
    study: StudyRuns, factor: Factor, level: Level, against: Level, at_their_best: Collection[str] = ()
) -> Effect | None:
    """Returns the paired difference of two levels, None where no two runs differ in this factor alone.

    Other numbers of the optimizer that were tried at three levels or more are each at their best, as are those named.
    """
    tuned = {each.name for each in tuned_factors(study)} - {factor.name} if factor != study.length else set()
    tuned |= set(at_their_best)
    cells: dict[tuple[Any, ...], dict[Level, tuple[float, str]]] = {}
    for run in study.in_order:
        if run.levels[factor.name] not in (level, against):
            continue
        place = tuple((n, v) for n, v in run.levels.items() if n != factor.name and n not in tuned)
        cell = cells.setdefault((place, run.seed), {})
        best = cell.get(run.levels[factor.name])
        if best is None or run.value < best[0]:
            cell[run.levels[factor.name]] = (run.value, run.trunk)
    pairs = tuple(
        Pair(place, seed, cell[level][0] - cell[against][0], (cell[level][1], cell[against][1]))
        for (place, seed), cell in cells.items()
        if level in cell and against in cell
    )
    if not pairs:
        return _unpaired(study, level, against, cells)
    units = _means((pair.trunks, pair.difference) for pair in pairs)
    differences = np.array(list(units.values()))
    mean, (noise, degrees) = float(differences.mean()), seed_noise(study)
    if degrees >= len(units) and len(units) < FEW_PAIRS:  # the runs of all levels together know the noise better
        spread = noise * math.sqrt(2)
    elif len(units) >= (2 if len({pair.seed for pair in pairs}) > 1 else 3):
        spread, degrees = float(differences.std(ddof=1)), len(units) - 1
    else:
        return Effect(level, against, pairs, mean, None, len(units))
    half = t_value(degrees) * spread / math.sqrt(len(units))
    differs = differs_by_place(study, pairs)
    return Effect(level, against, pairs, mean, (mean - half, mean + half), len(units), spread, differs)


def _unpaired(
    study: StudyRuns, level: Level, against: Level, cells: dict[tuple[Any, ...], dict[Level, tuple[float, str]]]
) -> Effect | None:
    """Returns the difference of means over seeds at each place where the two levels share none; None where they share
    no place either. Its interval comes from the noise of seeds."""
    places: dict[Any, dict[Level, list[tuple[float, str]]]] = {}
    for (place, _), cell in cells.items():
        for each, run in cell.items():
            places.setdefault(place, {}).setdefault(each, []).append(run)
    both = {place: (here[level], here[against]) for place, here in places.items() if level in here and against in here}
    if not both:
        return None
    differences = [float(np.mean([v for v, _ in a]) - np.mean([v for v, _ in b])) for a, b in both.values()]
    trunks = [(" ".join(t for _, t in a), " ".join(t for _, t in b)) for a, b in both.values()]
    pairs = tuple(Pair(p, None, d, t) for p, d, t in zip(both, differences, trunks, strict=True))
    mean, (noise, degrees) = float(np.mean(differences)), seed_noise(study)
    if not degrees:
        return Effect(level, against, pairs, mean, None, len(pairs))
    error = noise * math.sqrt(sum(1 / len(a) + 1 / len(b) for a, b in both.values())) / len(both)
    half = t_value(degrees) * error
    return Effect(level, against, pairs, mean, (mean - half, mean + half), len(pairs), error * math.sqrt(len(both)))


def _means(values: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    found: dict[Any, list[float]] = {}
    for key, value in values:
        found.setdefault(key, []).append(value)
    return {key: float(np.mean(each)) for key, each in found.items()}


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % t interval of the mean of differences [n], n at least 2."""
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    reach, mean = t_value(len(differences) - 1) * error, float(differences.mean())
    return mean - reach, mean + reach


def t_value(degrees: int, num_looks: int = 1) -> float:
    """Returns how many standard errors a 95 % interval reaches; wider where the farthest of num_looks is picked."""
    return float(t_quantile(degrees, 1 - (1 - LEVEL) / 2 / num_looks))


def pairs_to_tell(found: Effect) -> int:
    """Returns about how many pairs of trunks would tell its mean from none, were that the true difference.

    Raises ValueError where the effect has no interval.
    """
    if found.spread is None:
        raise ValueError("an effect without an interval has no spread to reckon with.")
    count = max(2, found.num_units)
    while count <= MOST_PAIRS and t_value(count - 1) * found.spread > abs(found.mean) * math.sqrt(count):
        count += 1
    return count


def _spread(study: StudyRuns, places: Mapping[Any, Sequence[float]]) -> tuple[float, int, bool]:
    """Returns (standard deviation of the difference of one pair between seeds, degrees of freedom, whether it is that
    of the pairs around the mean of their place): of few pairs it is the noise of seeds. No degrees without seeds."""
    pooled = sum(len(each) - 1 for each in places.values())
    noise, degrees = seed_noise(study)
    spread = math.sqrt(sum(float(np.var(each)) * len(each) for each in places.values()) / max(1, pooled))
    is_paired = degrees > 0 and pooled >= FEW_PAIRS - 1 and spread > 0
    return (spread, pooled, True) if is_paired else (noise * math.sqrt(2), degrees, False)


def half_intervals(study: StudyRuns, places: Mapping[Any, Sequence[float]]) -> tuple[dict[Any, float], int]:
    """Returns (half of the 95 % interval of the mean difference at each place, degrees of freedom of the spread that
    pairs of all places share; 0 where the noise of seeds is taken instead). Halves are 0 where no seed was repeated."""
    spread, degrees, is_paired = _spread(study, places)
    halves = {p: t_value(degrees) * spread / math.sqrt(len(d)) if degrees else 0.0 for p, d in places.items()}
    return halves, degrees if is_paired else 0


def differs_by_place(study: StudyRuns, pairs: Sequence[Pair]) -> bool:
    """Returns whether the difference of pairs is another at one combination of the other factors than at another one:
    by more than seeds explain. False where none was repeated."""
    places: dict[tuple[tuple[str, Level], ...], list[float]] = {}
    for pair in pairs:
        places.setdefault(pair.place, []).append(pair.difference)
    spread, degrees, _ = _spread(study, places)
    if not degrees or len(places) < 2:
        return False
    looks = len(places) * (len(places) - 1) // 2
    reach = t_value(degrees, looks) * spread * math.sqrt(2 / min(map(len, places.values())))
    means = [float(np.mean(each)) for each in places.values()]
    return max(means) - min(means) > reach


def seed_noise(study: StudyRuns) -> tuple[float, int]:
    """Returns (standard deviation of one run between seeds, degrees of freedom); NaN and 0 where none was repeated."""
    cells: dict[tuple, list[float]] = {}
    for run in study.runs:
        cells.setdefault(tuple(run.levels.values()), []).append(run.value)
    degrees = sum(len(each) - 1 for each in cells.values())
    squares = sum(float(np.var(each)) * len(each) for each in cells.values())
    return (float(np.sqrt(squares / degrees)) if degrees else float("nan")), degrees
