"""What each factor of a law does: local exponents, whether they are constant, and what one is worth in another."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kleiber.scaling.explaining.elasticity import (
    Constancy,
    Elasticity,
    ExchangeRate,
    constancy,
    elasticities,
    exchange_rate,
    factors_of,
    interaction,
    reference_points,
)
from kleiber.scaling.fitting.result import FitResult, without_nan

MOST_LEVELS = 8
"""A factor such as bits with more values than this is not compared value by value."""


@dataclass(frozen=True)
class FactorChange:
    """What a change of one factor is worth in another, with everything else at the middle of the runs."""

    factor: str
    value: float
    instead_of: float
    of: str
    worth: ExchangeRate | None
    """None where no amount of the other has the same effect."""


@dataclass(frozen=True)
class Interaction:
    """rho = d^2 ln(L - E) / d ln X d ln Y at the middle of the runs; 0 if each factor has its own exponent."""

    first: str
    second: str
    rho: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Factors:
    """The factors of one fit; all empty where the fit withholds what they rest on."""

    law: str
    level: float
    exponents: tuple[Elasticity, ...]
    verdicts: tuple[Constancy, ...]
    interactions: tuple[Interaction, ...]
    changes: tuple[FactorChange, ...]
    withheld: str | None
    """Why nothing is said."""

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        out = {
            "level": self.level,
            "local_exponents": [
                {"factor": each.factor, "at": dict(each.point), "value": each.value, "interval": each.interval}
                for each in self.exponents
            ],
            "constancy": [asdict(each) for each in self.verdicts],
            "interactions": [asdict(each) for each in self.interactions],
            "exchange_rates": [
                {
                    **{name: getattr(each, name) for name in ("factor", "value", "instead_of", "of")},
                    "rate": each.worth.rate if each.worth else None,
                    "interval": each.worth.interval if each.worth else None,
                }
                for each in self.changes
            ],
            "withheld": self.withheld,
        }
        return without_nan(out)

    def report(self) -> str:
        """Returns the factors as a few lines for people."""
        if self.withheld:
            return f"local exponents of {self.law}: withheld, {self.withheld}"
        lines = [f"local exponents of {self.law}, -d ln(L - E) / d ln X, {self.level:.0%} intervals"]
        for factor in dict.fromkeys(each.factor for each in self.exponents):
            texts = [
                f"{each.value:.3f} [{each.interval[0]:.3f}, {each.interval[1]:.3f}] at {each.point[factor]:.3g}"
                for each in self.exponents
                if each.factor == factor
            ]
            lines.append(f"  {factor:<17} " + "   ".join(texts))
        lines += [f"  {each.factor:<17} {each.verdict}" for each in self.verdicts]
        for pair in self.interactions:
            low, high = pair.interval
            names = f"{pair.first} and {pair.second}"
            lines.append(f"  interaction of {names}: rho {pair.rho:+.3f} [{low:.3f}, {high:.3f}], 0 in a product")
        for each in self.changes:
            what = f"{each.factor} {each.value:.4g} instead of {each.instead_of:.4g}"
            if each.worth:
                low, high = each.worth.interval
                lines.append(f"  worth      {what}: {each.worth.rate:.3g} of {each.of} [{low:.3g}, {high:.3g}]")
            else:
                lines.append(f"  worth      {what}: no amount of {each.of} does the same")
        return "\n".join(lines)


def describe_factors(fit: FitResult, level: float = 0.95) -> Factors:
    """Returns the local exponents, verdicts and exchange rates of a fit.

    Exchange rates are told in the first variable of the law: of each value of a factor such as bits against the one
    that changes nothing, and of doubling a count.
    """
    law = fit.scaled.law
    reason = _withheld(fit)
    if reason:
        return Factors(law.id, level, (), (), (), (), reason)
    middle = reference_points(fit)[1]
    of, *others = factors_of(fit)
    changes = [_worth(fit, change, middle, of, level) for name in others for change in _changes(fit, name, middle)]
    pairs = itertools.combinations((of, *others), 2)
    return Factors(
        law.id,
        level,
        tuple(elasticities(fit, level=level)),
        tuple(constancy(fit, level)),
        tuple(Interaction(*pair, *interaction(fit, *pair, level)) for pair in pairs),
        tuple(changes),
        None,
    )


def _withheld(fit: FitResult) -> str | None:
    if fit.scaled.law.quantity != "loss":
        return f"the law is of the {fit.scaled.law.quantity}, not of a loss"
    lost = [name for name, each in fit.parameters.items() if each.withheld]
    if not lost:
        return None
    reason = str(fit.parameters[lost[0]].withheld).split(":")[0]
    return f"as {', '.join(lost)} {'is' if len(lost) == 1 else 'are'} ({reason})"


def _changes(fit: FitResult, name: str, middle: dict[str, float]) -> Sequence[tuple[str, float, float]]:
    """Returns (factor, new value, old value) of the changes that are worth telling."""
    variable = next(each for each in fit.scaled.law.variables if each.name == name)
    if variable.neutral is None:
        return [(name, 2 * middle[name], middle[name])]
    levels = np.unique(fit.points[name])
    if len(levels) > MOST_LEVELS:
        levels = levels[[0, -1]]
    distance = np.abs(levels - variable.neutral) if np.isfinite(variable.neutral) else -levels
    plain = float(levels[distance.argmin()])
    return [(name, float(each), plain) for each in levels if each != plain]


def _worth(
    fit: FitResult, change: tuple[str, float, float], middle: dict[str, float], of: str, level: float
) -> FactorChange:
    name, new, old = change
    try:
        return FactorChange(name, new, old, of, exchange_rate(fit, {name: new}, {**middle, name: old}, of, level))
    except ValueError:
        return FactorChange(name, new, old, of, None)
