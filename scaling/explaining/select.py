"""Choosing a form by how well it predicts larger runs than it was fitted to: rolling origin, log score, stacking."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import gammaln

from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult, without_nan
from kleiber.scaling.forecasting.forecast import log_gradients
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.checks import usable_rows
from kleiber.scaling.table.table import RunTable
from kleiber.scaling.table.warned import TableWarning

FAILED = -50.0
"""Log density given to a law that could not be fitted; enough to leave it without weight."""


@dataclass(frozen=True)
class Score:
    """How one law predicted runs beyond those it was fitted to."""

    law: str
    log_score: float
    """Mean log predictive density of log loss; larger is better."""
    relative_error: float
    """Mean size of the relative error."""
    bias: float
    """Mean signed relative error, prediction over truth less 1."""
    weight: float
    """Stacking weight: the mixture of laws that predicts best."""
    num_failed: int
    """Folds in which the law could not be fitted."""


@dataclass(frozen=True)
class Selection:
    """Laws compared by rolling origin in compute."""

    scores: tuple[Score, ...]
    """Best log score first."""
    folds: tuple[tuple[int, int, float], ...]
    """Of each: runs fitted, runs scored, largest scored over largest fitted compute."""

    @property
    def best(self) -> str:
        """The law to use."""
        return self.scores[0].law

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; what is not finite is None."""
        names = ("fitted", "scored", "compute_ratio")
        scores = without_nan([asdict(each) for each in self.scores])
        folds = [dict(zip(names, fold, strict=True)) for fold in self.folds]
        return {"best": self.best, "scores": scores, "folds": folds, "withheld": None}

    def report(self) -> str:
        """Returns the comparison as text."""
        scored, farthest = sum(fold[1] for fold in self.folds), max(fold[2] for fold in self.folds)
        lines = [
            f"rolling origin in compute: {len(self.folds)} folds, {scored} runs predicted, up to {farthest:.3g} times "
            "the largest fitted",
            f"{'law':<20}{'log score':>10}{'|error|':>9}{'bias':>9}{'weight':>8}",
        ]
        for each in self.scores:
            failed = f"  could not be fitted in {each.num_failed} folds" if each.num_failed else ""
            lines.append(
                f"{each.law:<20}{each.log_score:>10.3f}{each.relative_error:>9.2%}{each.bias:>+9.2%}"
                f"{each.weight:>8.2f}{failed}"
            )
        return "\n".join(lines)


def rolling_origin(
    table: RunTable,
    laws: Sequence[str | Law | Callable[..., Any]],
    *,
    num_folds: int = 4,
    cluster: str | None = None,
    objective: str = "gaussian",
    delta: float | None = None,
    fixed: Mapping[str, float | str] | None = None,
    first: int | None = None,
) -> Selection:
    """Returns laws scored on runs of more compute than any they were fitted to, fold after fold.

    Fold k fits every run below a compute c_k and scores the runs up to c_(k+1). In-range R squared is not offered:
    any smooth form has a high one, and it says nothing about the next ten times of compute.

    Args:
      table: runs with `loss` and the laws' variables; `flops` orders them if there, else the product of parameters
        and tokens.
      laws: as for `fit_law`, each.
      num_folds: blocks of larger runs, each scored once.
      cluster, objective, delta: as for `fit_law`.
      fixed: constants held at a value in the laws that have them.
      first: runs in the first fit; 40% of them, and enough for every law, if left out.

    Raises:
      ValueError: with too few runs to fit and score, or fewer than one law.
    """
    if not laws:
        raise ValueError("name at least one law to score (kleiber laws).")
    found = [get_law(law) for law in laws]
    variables = tuple(dict.fromkeys(name for law in found for name in law.variable_names))
    table = usable_rows(table, variables, [each.name for law in found for each in law.variables if each.may_be_zero])
    compute = _compute(table, variables)
    held = {law.id: {name: value for name, value in (fixed or {}).items() if name in law.names} for law in found}
    needed = max(len(law.names) - len(held[law.id]) for law in found) + 2

    def fitted(train: RunTable, law: Law) -> FitResult:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TableWarning)
            return fit_law(train, law, cluster=cluster, objective=objective, delta=delta, fixed=held[law.id])

    first = max(needed, int(np.ceil(0.4 * len(table)))) if first is None else first
    blocks = _blocks(compute, max(first, needed), num_folds)
    if not blocks:
        raise ValueError(
            f"{table.source}: {len(table)} runs are too few to fit {needed - 2} constants on the smaller ones and "
            "score the larger; add runs or choose laws with fewer constants."
        )
    densities, errors, folds = [], [], []
    failed = np.zeros(len(found), dtype=int)
    for low, high in blocks:
        train, test = compute < low, (compute >= low) & (compute <= high)
        rows = [_score(partial(fitted, table.where(train), law), table.where(test)) for law in found]
        failed += np.array([each is None for each in rows])
        nothing = (np.full(int(test.sum()), FAILED), np.full(int(test.sum()), np.nan))
        densities.append(np.stack([(each or nothing)[0] for each in rows], 1))
        errors.append(np.stack([(each or nothing)[1] for each in rows], 1))
        folds.append((int(train.sum()), int(test.sum()), float(compute[test].max() / compute[train].max())))
    density, error = np.concatenate(densities), np.concatenate(errors)
    weights = stacking_weights(density)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        size, bias = np.nanmean(np.abs(error), axis=0), np.nanmean(error, axis=0)
    scores = [
        Score(law.id, float(density[:, i].mean()), float(size[i]), float(bias[i]), float(weights[i]), int(failed[i]))
        for i, law in enumerate(found)
    ]
    scores.sort(key=lambda each: -each.log_score)
    return Selection(tuple(scores), tuple(folds))


def _compute(table: RunTable, variables: Sequence[str]) -> np.ndarray:
    if "flops" in table.columns and np.all(table["flops"] > 0):
        return table["flops"]
    names = [name for name in ("num_params_total", "num_tokens") if name in variables] or list(variables[:1])
    return np.prod([table[name] for name in names], axis=0)


def _blocks(compute: np.ndarray, first: int, num_folds: int) -> list[tuple[float, float]]:
    """Returns the smallest and largest compute of each scored block; runs of equal compute stay together."""
    levels = np.sort(compute)
    # Budgets that agree to 1% are one budget: its runs are never split between fitting and scoring.
    starts = [index for index in range(first, len(levels)) if levels[index] > 1.01 * levels[index - 1]]
    if not starts:
        return []
    wanted = np.linspace(starts[0], len(levels), num_folds + 1)[:-1]
    chosen = sorted({min(starts, key=lambda index: abs(index - each)) for each in wanted})
    ends = [*chosen[1:], len(levels)]
    return [(float(levels[low]), float(levels[high - 1])) for low, high in zip(chosen, ends, strict=True)]


def _score(fitted: Callable[[], FitResult], test: RunTable) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns log densities and relative errors [runs], or None if the law cannot be fitted."""
    try:
        fit = fitted()
    except ValueError:
        return None
    columns = {name: test[name] for name in fit.scaled.law.variable_names}
    mean, gradient = log_gradients(fit, columns)
    variance, degrees = fit.uncertainty.degrees_of(gradient, 1.0)
    residual = np.log(test["loss"]) - mean
    densities = _log_density(residual, np.sqrt(variance), np.minimum(degrees, 1e6))
    return np.maximum(np.nan_to_num(densities, nan=FAILED), FAILED), np.expm1(-residual)


def _log_density(residual: np.ndarray, scale: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Returns the log densities [runs] of Student's t at residuals [runs]."""
    constant = gammaln(0.5 * (degrees + 1)) - gammaln(0.5 * degrees) - 0.5 * np.log(degrees * np.pi) - np.log(scale)
    return constant - 0.5 * (degrees + 1) * np.log1p((residual / scale) ** 2 / degrees)


def stacking_weights(log_densities: np.ndarray, num_rounds: int = 5000) -> np.ndarray:
    """Returns the weights [laws] of the mixture with the largest summed log density of runs [runs, laws].

    Source: Yao et al. 2018, Bayesian Analysis 13, section 3.1; solved by expectation-maximisation, which climbs a
    concave objective from the even mixture.
    """
    density = np.exp(log_densities - log_densities.max(axis=1, keepdims=True))
    weights = np.full(density.shape[1], 1 / density.shape[1])
    for _ in range(num_rounds):
        share = density * weights
        new = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(new - weights).max() < 1e-10:
            break
        weights = new
    return weights
