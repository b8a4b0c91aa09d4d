"""A law fitted again to some of the runs of a fit, from where the whole fit ended."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.fit import fit_uncertainty
from kleiber.scaling.fitting.noise import information, make_clusters
from kleiber.scaling.fitting.refit import fit_many
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import ScaledLaw, solution_at
from kleiber.scaling.fitting.uncertainty import Uncertainty


@dataclass(frozen=True)
class PartFit:
    """What a forecast needs of a fit to some of the runs; a `FitResult` has all of it too."""

    law: str
    scaled: ScaledLaw
    z: np.ndarray
    """float64 [P], the working point."""
    uncertainty: Uncertainty
    aicc: float
    num_points: int


def fit_part(fit: FitResult, rows: np.ndarray, starts: Sequence[np.ndarray] = ()) -> PartFit | None:
    """Returns the law fitted to some runs of a fit with the same objective, residuals, weights and trunks, or None if
    they cannot carry it.

    Args:
      fit: of all runs.
      rows: int [part], which of them.
      starts: working points [P] to start from besides the whole fit's.
    """
    scaled, log_loss = fit.scaled.on(rows), fit.measure.of(fit.points["loss"][rows])
    if len(rows) <= len(fit.z) + 1:
        return None
    labels = None if fit.clusters is None else np.asarray(fit.clusters)[rows]
    clusters = None if labels is None else make_clusters(labels)
    if clusters is not None and (clusters.count < 3 or clusters.sizes.max() == 1):
        labels, clusters = None, None
    found = fit_many(scaled, log_loss[None], np.stack([fit.z, *starts]), cluster=labels, objective=fit.summed)
    ratio, solution = float(found.ratio[0]), solution_at(scaled, found.z[0], log_loss)
    if not np.isfinite(found.cost[0]) or not np.isfinite(solution.jacobian).all():
        return None
    uncertainty = fit_uncertainty(solution, fit.summed, clusters, ratio)
    _, aicc = information(solution.residual, clusters, ratio, int(solution.free.sum()))
    return PartFit(fit.law, scaled, solution.z, uncertainty, aicc, len(rows))
