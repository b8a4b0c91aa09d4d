"""From sweeps over a learning rate to a recipe: how its best follows batch, length and shape, and what a rule loses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from kleiber.experiments.answers.best import BestMove, Place, best_levels
from kleiber.experiments.answers.sentences import at, listing
from kleiber.experiments.answers.study_runs import StudyRuns
from kleiber.scaling.explaining.parabola import Parabola
from kleiber.scaling.fitting.estimates import t_quantile
from kleiber.train.config import TrainConfig
from kleiber.train.recipe import Cause, Power, Quantity, Recipe

CAUSE_OF: dict[str, Cause] = {"batch_size": "batch_tokens", **{cause: cause for cause in get_args(Cause)}}
"""What a factor's level is in proportion to, where all else is alike."""


@dataclass(frozen=True)
class MeasuredPower:
    """An exponent, by the best levels at the first and the last level of what it follows."""

    power: Power
    ends: tuple[float, float]
    interval: tuple[float, float] | None
    """95 %; None where nothing tells how large the noise is."""
    num_pairs: int

    def __str__(self) -> str:
        """The rule as people write it."""
        low, high = self.interval or (float("nan"),) * 2
        between = f" [{low:.2f}, {high:.2f}]" if self.interval else ", no interval: repeat a seed"
        ends = f"{self.ends[0]:,g} to {self.ends[1]:,g}"
        pairs = f"{self.num_pairs} pair{'s' * (self.num_pairs > 1)} of bowls"
        return f"{self.power.quantity} ~ {self.power.cause}^{self.power.exponent:.2f}{between}   {ends}, {pairs}"


@dataclass(frozen=True)
class Tuning:
    """What sweeps say of a recipe."""

    recipe: Recipe
    measured: tuple[MeasuredPower, ...]
    regrets: tuple[tuple[str, float, float, float], ...]
    """(where, the recipe's level, the best by parabola, share of the loss that the recipe loses) of each place."""
    notes: tuple[str, ...] = ()
    """Sentences about what changed together, so that no exponent can be told, and on what was measured twice."""

    def __str__(self) -> str:
        """What `kleiber tune` prints."""
        missing = [cause for cause in get_args(Cause) if cause not in {each.power.cause for each in self.measured}]
        lines = [*map(str, self.measured), *self.notes]
        lines += [f"not measured, kept as it is: how it follows {listing(missing)}"] if missing else []
        lines += [
            f"at {place}: the recipe says {level:.3g}, the best is {best:.3g}: it loses {lost:.2%} of the loss"
            for place, level, best, lost in self.regrets
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """What `kleiber tune --json` prints."""
        powers = [
            {"quantity": m.power.quantity, "cause": m.power.cause, "exponent": m.power.exponent,
             "interval": m.interval, "ends": m.ends, "num_pairs": m.num_pairs}
            for m in self.measured
        ]  # fmt: skip
        names = ("where", "recipe", "best", "regret")
        return {"powers": powers, "places": [dict(zip(names, each, strict=True)) for each in self.regrets]}


def tuning_of(studies: Sequence[tuple[StudyRuns, dict[str, TrainConfig]]], quantity: Quantity) -> Tuning:
    """Returns the recipe that sweeps over a quantity tell.

    An exponent is that of the best level by parabola between the first and the last level of batch, tokens, width or
    layers, all else alike, with the interval of `kleiber ask`. The reference is where the most FLOPs were spent, with
    the best level there.

    Args:
      studies: of each sweep its points, and the config of each by trunk.
      quantity: which varies in each.

    Raises:
      ValueError: there is no bowl to read a best level from.
    """
    measured: list[MeasuredPower] = []
    bowls: list[tuple[float, Place, Parabola, TrainConfig]] = []
    notes: list[str] = []
    for study, configs in studies:
        factor = study.factor(quantity)
        if factor is None:
            names = listing(each.name for each in study.factors) or "nothing"
            raise ValueError(f"{quantity} does not vary in this sweep ({names} does); try three levels of it or more.")
        best = best_levels(study, factor)
        for place, found in best.places.items():
            if found.parabola is not None:
                runs = [run for run in study.runs if set(place) <= set(run.levels.items())]
                dearest = max(runs, key=lambda run: float(run.record["flops"]))
                config = configs[str(dearest.record["trunk_id"])]
                config = replace(config, num_tokens=(int(dearest.record["num_tokens"]),))
                bowls.append((float(dearest.record["flops"]), place, found.parabola, config))
        for move in best.moves:
            if move.other in CAUSE_OF:
                other = study.factor(move.other)
                beside = [each for each in other.goes_with if each in CAUSE_OF] if other else []
                if beside:
                    notes.append(
                        f"{move.other} changes with {listing(beside)}: which of them the best follows is not told"
                    )
                else:
                    measured.append(_power(quantity, move))
    if not bowls:
        raise ValueError(
            f"no bowl of losses over {quantity}: at no place did three levels or more have a better one between two "
            "worse; try levels on both sides of the best."
        )
    _, _, parabola, config = max(bowls, key=lambda each: each[0])
    best_there: dict[str, Any] = {quantity: parabola.vertex}
    tuned = replace(config, optimizer=replace(config.optimizer, **best_there))
    widest = {m.power.cause: m.power for m in sorted(measured, key=lambda each: each.ends[1] / each.ends[0])}
    if len(widest) < len(measured):
        notes.append("where sweeps measure the same exponent, the recipe takes that of the widest range")
    recipe = Recipe.tuned_at(tuned, tuple(widest.values()), "measured")
    regrets = []
    for _, place, bowl, there in bowls:
        level = float(getattr(recipe(there).optimizer, quantity))
        regrets.append(
            (at(place) or "the only place", level, bowl.vertex, bowl.loss(level) / bowl.loss(bowl.vertex) - 1)
        )
    return Tuning(recipe, tuple(measured), tuple(regrets), tuple(notes))


def _power(quantity: Quantity, move: BestMove) -> MeasuredPower:
    """Returns the exponent of a move of the best level from one level of its cause to another."""
    low, high = (float(end) for end in move.ends)  # type: ignore[arg-type]
    scale = float(np.log(high / low))
    found = move.found
    ends = None
    if found.interval is not None:
        ends = float(np.log(found.interval[0])) / scale, float(np.log(found.interval[1])) / scale
    error = (ends[1] - ends[0]) / 2 / float(t_quantile(found.degrees, 0.975)) if ends else None
    power = Power(quantity, CAUSE_OF[move.other], float(np.log(found.factor)) / scale, error)
    return MeasuredPower(power, (low, high), ends, move.num_pairs)
