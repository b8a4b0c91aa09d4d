"""Choosing a form by how well it predicts larger runs than it was fitted to: rolling origin, log score, stacking."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln

from kleiber.scaling.fitting.part import PartFit
from kleiber.scaling.fitting.result import FitResult, without_nan
from kleiber.scaling.forecasting.mixture import log_gradients
from kleiber.scaling.forecasting.rolling import Origin, roll_origin

FAILED = -50.0
"""Log density given to a law that could not be fitted; enough to leave it without weight."""


@dataclass(frozen=True)
class Score:
    """How one law predicted runs beyond those it was fitted to."""

    law: str
    log_score: float
    """Mean log predictive density of log loss, or what else residuals compare; larger is better."""
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


def rolling_origin(fits: Sequence[FitResult], origins: Sequence[Origin] | None = None) -> Selection:
    """Returns laws scored on runs of more compute than any they were fitted to, fold after fold. Raises ValueError with
    too few runs to fit and score, or no law.

    Fold k fits every run below a compute c_k and scores the runs up to c_(k+1). In-range R squared is not offered:
    any smooth form has a high one, and it says nothing about the next ten times of compute.

    Args:
      fits: laws fitted to the same runs.
      origins: of these fits, if they are there already (`roll_origin`).
    """
    if not fits:
        raise ValueError("name at least one law to score (kleiber laws).")
    origins = roll_origin(fits) if origins is None else origins
    if not origins:
        raise ValueError(
            f"{fits[0].source}: {fits[0].num_points} runs are too few to fit {max(len(fit.z) for fit in fits)} "
            "constants on the smaller ones and score the larger; add runs or choose laws with fewer constants."
        )
    densities, errors = [], []
    for origin in origins:
        rows = [_score(part, fit, origin.block) for part, fit in zip(origin.fits, fits, strict=True)]
        densities.append(np.stack([each[0] for each in rows], 1))
        errors.append(np.stack([each[1] for each in rows], 1))
    failed = np.array([[part is None for part in origin.fits] for origin in origins]).sum(axis=0)
    density, error = np.concatenate(densities), np.concatenate(errors)
    weights = stacking_weights(density)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        size, bias = np.nanmean(np.abs(error), axis=0), np.nanmean(error, axis=0)
    scores = [
        Score(fit.law, float(density[:, i].mean()), float(size[i]), float(bias[i]), float(weights[i]), int(failed[i]))
        for i, fit in enumerate(fits)
    ]
    scores.sort(key=lambda each: -each.log_score)
    folds = tuple((len(each.rows), len(each.block), each.compute_ratio) for each in origins)
    return Selection(tuple(scores), folds)


def _score(part: PartFit | None, fit: FitResult, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns log densities and relative errors [runs] of some rows of a fit by what was fitted to others."""
    if part is None:
        return np.full(len(rows), FAILED), np.full(len(rows), np.nan)
    scaled, loss = fit.scaled.on(rows), fit.points["loss"][rows]
    mean, gradient = log_gradients(part, scaled.columns)
    variance, degrees = part.uncertainty.degrees_of(gradient, scaled.measure.noise)
    residual = scaled.measure.of(loss) - mean
    densities = _log_density(residual, np.sqrt(variance), np.minimum(degrees, 1e6))
    return np.maximum(np.nan_to_num(densities, nan=FAILED), FAILED), scaled.measure.back(mean) / loss - 1


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
