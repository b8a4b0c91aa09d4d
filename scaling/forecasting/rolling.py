"""What a table says of its own forecasts: its dearer runs, forecast from its cheaper ones by the laws fitted to all."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kleiber.scaling.fitting.estimates import t_quantile
from kleiber.scaling.fitting.objective import robust_scale
from kleiber.scaling.fitting.part import PartFit, fit_part
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.mixture import Mixture, mix, mixture_weights

NUM_ORIGINS = 4
FIRST_SHARE = 0.4
"""Of the runs, in the first of the fits that are scored."""
MOST_RUNS = 2_000
"""Of a longer table as many runs, evenly spaced in compute, are fitted again."""
SPARE = 3
"""Runs fitted beyond the constants of the largest law, at least: with fewer an origin says what noise says."""
SAME_BUDGET = 1.01
"""Budgets that agree to 1% are one budget: its runs are never split between fitting and scoring."""
WIDEST_BUDGET = 1.1
"""Runs that go on so far at steps of less than 1% are no budget, just many."""
DRIFT = 0.008
"""Standard deviation of log loss that no fit shows, for each factor e that a run lies beyond the fitted ones."""
CAUTION = 0.6
"""What standard errors of several forms are multiplied by where a table's own forecasts were as good as they said: t
has few degrees of freedom, the worst form is counted, and an origin has fewer runs to fit than there are."""
CAUTION_ALONE = 0.85
"""The same of one form, which has no others whose errors have opposite signs."""
PRIOR_ORIGINS = 2.0
"""As many origins are taken to have been as good as they said, before a table says anything."""
MEDIAN_SQUARE = 0.4549
"""Of a standard normal error. A robust objective expects some runs to be far off, so the median of an origin's squares
stands for their mean."""
LARGE_ERROR = 1.2
"""Alarm from this many of their own standard errors in the forecasts of the table's own runs."""


@dataclass(frozen=True)
class Origin:
    """The runs below a budget fitted again, to be scored on dearer ones; rows are int arrays in order of compute."""

    fits: tuple[PartFit | None, ...]
    """One a law; None where the runs cannot carry it."""
    rows: np.ndarray
    """Fitted."""
    block: np.ndarray
    """Up to the next budget: every dearer run is in one block."""
    dearer: np.ndarray
    """All dearer runs."""
    compute_ratio: float
    """Compute of the largest run of the block over the largest fitted."""


@dataclass(frozen=True)
class Protection:
    """By how much intervals are widened, or narrowed, for what no fit can know of its own errors."""

    origins: tuple[Mapping[str, float], ...]
    """Of each: `fitted` and `scored` runs, `reach` (e-folds beyond the fitted runs), `relative_error` (rms) and
    `standardised_error` (rms, or of their bulk after a robust objective, in standard errors that were said)."""
    factor: float
    """What standard errors are multiplied by."""
    degrees_of_freedom: float
    """How well that is known, as of Student's t."""
    bulk: float = 0.0
    """Variance of the bulk of the residuals over that of all, 1 at most: what is left of the forms' own variance if
    every run scattered as most do. Intervals are no narrower than that says; 0 for fits of before it was measured."""
    past_factor: float = 1.0
    """The part of `factor` that earlier outcomes of the same recipe are answerable for (track_record.py)."""
    past_outcomes: int = 0
    """How many of them were heard."""

    def deviation(self, mixed: Mixture, reach: np.ndarray) -> np.ndarray:
        """Returns the standard error [runs] of what forms say of runs `reach` e-folds beyond the fitted."""
        degrees = np.maximum(mixed.degrees_of_freedom, self.degrees_of_freedom)
        of_bulk = t_quantile(degrees, 0.95) / t_quantile(self.degrees_of_freedom, 0.95) * np.sqrt(self.bulk * mixed.own)
        return np.maximum(self.factor * np.sqrt(mixed.variance + drift_of(mixed, reach) ** 2), of_bulk)

    @property
    def alarms(self) -> tuple[str, ...]:
        """What is wrong, each with its name first."""
        if not self.origins:
            return ("rolling-origin: too few runs to forecast some of them from the others",)
        size = float(np.sqrt(np.mean([each["standardised_error"] ** 2 for each in self.origins])))
        if size <= LARGE_ERROR:
            return ()
        return (f"rolling-origin: the table's own dearer runs were missed by {size:.1f} of the standard errors said",)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            **asdict(self),
            "origins": [dict(each) for each in self.origins],
            "alarms": list(self.alarms),
            "withheld": None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Protection":
        """Returns what `to_json` wrote."""
        past = (data.get("past_factor", 1.0), data.get("past_outcomes", 0))
        return cls(tuple(data["origins"]), data["factor"], data["degrees_of_freedom"], data.get("bulk", 0.0), *past)

    def report(self) -> str:
        """Returns the finding as text for people."""
        lines = [f"{'runs fitted':>11}{'forecast':>9}{'beyond':>9}{'rms error':>11}{'in standard errors':>20}"]
        lines += [
            f"{each['fitted']:>11}{each['scored']:>9}{np.exp(each['reach']):>8.3g}x{each['relative_error']:>11.2%}"
            f"{each['standardised_error']:>20.2f}"
            for each in self.origins
        ]
        lines.append(
            f"standard errors of forecasts times {self.factor:.2f} (t with {self.degrees_of_freedom:.3g} degrees), "
            f"and {DRIFT:.1%} for each factor e beyond the runs"
        )
        if self.past_outcomes:
            lines.append(f"of that, {self.past_outcomes} earlier outcomes of this recipe say {self.past_factor:.2f}")
        return "\n".join(lines + [f"ALARM {alarm}" for alarm in self.alarms])


def reach_of(fitted: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns how many e-folds new runs [runs] lie beyond fitted ones: in compute, or in their variables together.

    Args:
      fitted: variables of the fitted runs; those that are zero somewhere are passed over.
      columns: the same of the new runs.
    """
    zero, old_compute = np.zeros(len(next(iter(columns.values())))), np.zeros(1)
    beyond, compute = zero, zero
    for name, values in fitted.items():
        if np.all(values > 0) and np.all(columns[name] > 0):
            old, new = np.log(values), np.log(columns[name])
            beyond = beyond + np.maximum(np.maximum(new - old.max(), old.min() - new), 0.0)
            if name in ("num_params_total", "num_tokens"):
                old_compute, compute = old_compute + old, compute + new
    return np.maximum(beyond, compute - old_compute.max())


def drift_of(mixed: Mixture, reach: np.ndarray) -> np.ndarray:
    """Returns the standard deviation [runs] that no fit shows of runs `reach` e-folds beyond the fitted."""
    return DRIFT * reach * mixed.per_log


def compute_of(fit: FitResult) -> np.ndarray:
    """Returns what orders the runs [runs] of a fit: counted FLOPs, else parameters times tokens, else a variable."""
    if "flops" in fit.points:
        return fit.points["flops"]
    variables = fit.definition.variable_names
    names = tuple(name for name in ("num_params_total", "num_tokens") if name in variables) or variables[:1]
    return np.prod([fit.points[name] for name in names], axis=0)


def roll_origin(fits: Sequence[FitResult]) -> list[Origin]:
    """Returns laws fitted to the same runs, fitted again to those below some budgets; none if they are too few."""
    compute = compute_of(fits[0])
    order = np.argsort(compute, kind="stable")
    if len(order) > MOST_RUNS:
        order = order[np.linspace(0, len(order) - 1, MOST_RUNS).round().astype(int)]
    needed = max(len(fit.z) for fit in fits) + SPARE
    cuts = _cuts(compute[order], max(int(np.ceil(FIRST_SHARE * len(order))), needed))
    origins: list[Origin] = []
    for low, high in reversed(list(itertools.pairwise([*cuts, len(order)]))):
        # From the dearest down: each fit starts from the one with a few more runs, and from the whole.
        last = origins[-1].fits if origins else (None,) * len(fits)
        parts = [
            fit_part(fit, order[:low], [] if near is None else [near.z]) for fit, near in zip(fits, last, strict=True)
        ]
        ratio = float(compute[order[high - 1]] / compute[order[low - 1]])
        origins.append(Origin(tuple(parts), order[:low], order[low:high], order[low:], ratio))
    return origins[::-1]


def _cuts(levels: np.ndarray, first: int) -> list[int]:
    """Returns where sorted computes are cut, the first runs below each; runs of one budget stay together."""
    starts, budget = [], float(levels[0])
    for index in range(1, len(levels)):
        level, last = float(levels[index]), float(levels[index - 1])
        if level > SAME_BUDGET * last or level > max(WIDEST_BUDGET * budget, last):
            budget = level
            starts += [index] if index >= first else []
    if not starts:
        return []
    wanted = np.linspace(starts[0], len(levels), NUM_ORIGINS + 1)[:-1]
    return sorted({min(starts, key=lambda index: abs(index - each)) for each in wanted})


def protect(fits: Sequence[FitResult], origins: Sequence[Origin] | None = None) -> Protection:
    """Returns how well the forms of a table forecast its own dearer runs together, and what follows for intervals.

    The squared standard errors of forecasts are scaled by the mean squared standardised error of the origins, each
    counted once because its errors go together (their bulk, after a robust objective), and shrunk to CAUTION as if
    PRIOR_ORIGINS more had said 1.

    Args:
      fits: of the same runs.
      origins: of the same fits, if they are there already.
    """
    points = {name: values for fit in fits for name, values in fit.scaled.columns.items()}
    measure, found, squares = fits[0].measure, [], []
    is_plain = fits[0].objective_name == "gaussian"
    for origin in roll_origin(fits) if origins is None else origins:
        parts = [part for part in origin.fits if part is not None]
        if not parts:
            continue
        rows = origin.dearer
        columns = {name: values[rows] for name, values in points.items()}
        reach = reach_of({name: values[origin.rows] for name, values in points.items()}, columns)
        mixed = mix(parts, columns, measure.on(rows).noise)
        error = measure.of(fits[0].points["loss"][rows]) - mixed.log_loss
        each = error**2 / (mixed.variance + drift_of(mixed, reach) ** 2)
        squares.append(float(np.mean(each) if is_plain else np.median(each) / MEDIAN_SQUARE))
        said = {"fitted": len(origin.rows), "scored": len(rows), "reach": float(reach.max())}
        relative = float(np.sqrt(np.mean((error / mixed.per_log) ** 2)))
        found.append({**said, "relative_error": relative, "standardised_error": squares[-1] ** 0.5})
    degrees = PRIOR_ORIGINS + len(squares)
    factor = (CAUTION if len(fits) > 1 else CAUTION_ALONE) * float(np.sqrt((PRIOR_ORIGINS + sum(squares)) / degrees))
    return Protection(tuple(found), factor, degrees, bulk_of(fits))


def bulk_of(fits: Sequence[FitResult]) -> float:
    """Returns the variance of the bulk of the residuals of laws fitted to the same runs, over that of all."""
    weights = mixture_weights(fits)
    residual = weights @ np.stack([fit.residuals for fit in fits]) / np.sqrt(fits[0].measure.noise)
    variance = float(np.exp(weights @ np.log([fit.uncertainty.variances.sum() for fit in fits])))
    return min(robust_scale(residual, round(float(weights @ [len(fit.z) for fit in fits]))) ** 2 / variance, 1.0)


def protection_json(fits: Sequence[FitResult], protection: Protection | None) -> dict[str, Any]:
    """Returns the keys that a fit's JSON has for forecasts: how much each form has to say, and the protection."""
    return {
        "form_weights": dict(zip((fit.law for fit in fits), mixture_weights(fits).tolist(), strict=True)),
        "rolling_origin": {"withheld": "asked off"} if protection is None else protection.to_json(),
    }


def read_protection(data: Mapping[str, Any], fits: Sequence[FitResult]) -> Protection | None:
    """Returns the protection that `protection_json` wrote, or None if asked off; measured now where none is written."""
    found = data.get("rolling_origin")
    if found is None:
        return protect(fits)
    return None if found.get("withheld") else Protection.from_json(found)
