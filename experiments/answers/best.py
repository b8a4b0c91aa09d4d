"""The best level of a factor at each combination of the others, and whether it moves with them."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kleiber.experiments.answers.effects import seed_noise, t_value
from kleiber.experiments.answers.study_runs import StudyRuns
from kleiber.experiments.planning.varied import Factor, Level, is_number
from kleiber.scaling.explaining.parabola import Move, Parabola, fit_parabola, move, smoothness_noise

Place = tuple[tuple[str, Level], ...]


@dataclass(frozen=True)
class Best:
    """The best level at one combination of the other factors, seeds averaged."""

    level: Level
    second: Level
    lead: float
    """Of the best over the second, in the unit of the study."""
    edge: str
    """`largest` or `smallest` where a number lies at an end of the levels tried there; empty elsewhere, and for a zero
    that cannot be gone below."""
    num_runs: tuple[int, int]
    """Seeds of the best and of the second."""
    parabola: Parabola | None
    """Through the losses, where they are a bowl over a positive number."""
    reach: float = 0.0
    """Half of the 95 % interval of the lead by the noise of seeds; 0 where none was repeated."""

    @property
    def is_tied(self) -> bool:
        """Whether the lead is within the noise of seeds."""
        return self.lead < self.reach


@dataclass(frozen=True)
class BestMove:
    """How the best level by parabola moves with another factor, from its first to its last level."""

    other: str
    ends: tuple[Level, Level]
    found: Move
    num_pairs: int


@dataclass(frozen=True)
class BestLevels:
    """The best levels of a factor at every place, and how they move."""

    places: Mapping[Place, Best]
    moves: tuple[BestMove, ...]
    noise: float
    """Of one ln loss, behind the intervals of the moves; NaN if nothing tells."""
    noise_source: str
    untold: tuple[float, float] | None = None
    """(the difference of two levels that seeds come nearest to telling, half of its 95 % interval) where they tell none
    from no effect; None where they tell one, or no seed was repeated."""


def best_levels(study: StudyRuns, factor: Factor, at_their_best: Collection[str] = ()) -> BestLevels:
    """Returns the best level of a factor at each combination of the others that tried three levels or more.

    Args:
      study: the runs.
      factor: any.
      at_their_best: names of others that make no combinations: each is taken at its best.
    """
    aside = {factor.name, *at_their_best}
    by_seed: dict[Place, dict[Level, dict[int, float]]] = {}
    for run in study.in_order:
        place = tuple((n, v) for n, v in run.levels.items() if n not in aside)
        cell = by_seed.setdefault(place, {}).setdefault(run.levels[factor.name], {})
        cell[run.seed] = min(run.value, cell.get(run.seed, run.value))
    cells = {place: {level: list(each.values()) for level, each in here.items()} for place, here in by_seed.items()}
    worse: dict[Place, set[Level]] = {}
    for run in study.lost:  # what diverged, or was cut as hopeless, was tried all the same
        if run.record["status"] != "failed":
            place = tuple((n, v) for n, v in run.levels.items() if n not in aside)
            worse.setdefault(place, set()).add(run.levels[factor.name])
    places = {
        place: _best(levels, worse.get(place, set()))
        for place, levels in cells.items()
        if len(levels) > 1 and len({*levels, *worse.get(place, ())}) > 2
    }
    bowls = [each.parabola for each in places.values() if each.parabola]
    seed, degrees = seed_noise(study)
    if degrees:
        reach = t_value(degrees) * seed
        places = {
            place: replace(each, reach=reach * math.sqrt(sum(1 / n for n in each.num_runs)))
            for place, each in places.items()
        }
    untold = _untold(cells, seed, degrees) if degrees else None
    if degrees:
        noise = seed / float(np.mean([run.value for run in study.runs]))
        source = f"of seeds, {degrees} degrees of freedom"
    else:
        noise, degrees = smoothness_noise(bowls)
        source = f"how far the runs lie off their parabolas, {degrees} degrees of freedom" if degrees else ""
    found = [each for other in study.factors if (each := _move(places, other, factor, noise, degrees))]
    moves = tuple(sorted(found, key=lambda each: -abs(np.log(each.found.factor))))
    return BestLevels(places, moves, noise, source, untold)


def _untold(cells: Mapping[Place, dict[Level, list[float]]], noise: float, degrees: int) -> tuple[float, float] | None:
    """Returns the difference, with its half interval, of the pair of levels that comes nearest to being told from none,
    over all places at once; None where one is told, there or at one place. The interval allows for so many looks."""
    levels = list(dict.fromkeys(level for each in cells.values() for level in each))
    pairs, found = list(itertools.combinations(levels, 2)), []
    for a, b in pairs:
        both = [(here[a], here[b]) for here in cells.values() if a in here and b in here]
        differences = np.array([np.mean(x) - np.mean(y) for x, y in both])
        errors = noise * np.array([math.sqrt(1 / len(x) + 1 / len(y)) for x, y in both])
        if not both:
            continue
        if np.any(np.abs(differences) > t_value(degrees, len(pairs) * len(both)) * errors):
            return None
        half = t_value(degrees, len(pairs)) * float(np.sqrt(np.sum(errors**2))) / len(both)
        found.append((abs(float(differences.mean())), half))
    nearest = max(found, key=lambda each: each[0] / each[1], default=None)
    return nearest if nearest and nearest[0] <= nearest[1] else None


def _best(levels: dict[Level, list[float]], worse: set[Level]) -> Best:
    means = {level: float(np.mean(each)) for level, each in levels.items()}
    order = sorted(means, key=lambda level: means[level])
    numbers = all(map(is_number, means))
    bowl = None
    if numbers and min(means) > 0:  # type: ignore[type-var, operator]
        pairs = [(float(level), value) for level, each in levels.items() for value in each]  # type: ignore[arg-type]
        bowl = fit_parabola(*np.array(pairs).T)
    counts = len(levels[order[0]]), len(levels[order[1]])
    edge = _edge(order[0], sorted({*means, *worse})) if numbers else ""
    return Best(order[0], order[1], means[order[1]] - means[order[0]], edge, counts, bowl)


def _edge(level: Any, tried: Sequence[Any]) -> str:
    """Returns at which end of the numbers tried a level lies, if something can lie beyond: no whole number below 1."""
    is_whole = all(isinstance(each, int) for each in tried)
    has_below = level != 0 and not (is_whole and level**2 < tried[1])
    return "largest" if level == tried[-1] else "smallest" if level == tried[0] and has_below else ""


def _move(places: Mapping[Place, Best], other: Factor, factor: Factor, noise: float, degrees: int) -> BestMove | None:
    """Returns the move with another factor: its first against its last level, all else alike."""
    if other.name == factor.name:
        return None
    first, last = other.levels[0], other.levels[-1]
    pairs = []
    for place, best in places.items():
        there = places.get(tuple((n, last if n == other.name else v) for n, v in place))
        if dict(place).get(other.name) == first and there and best.parabola and there.parabola:
            pairs.append((best.parabola, there.parabola))
    return BestMove(other.name, (first, last), move(pairs, noise, degrees), len(pairs)) if pairs else None
