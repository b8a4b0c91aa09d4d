"""A law fitted again to some of the runs of a fit, from where the whole fit ended."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.fit import fit_uncertainty
from kleiber.scaling.fitting.noise import Uncertainty, information, make_clusters
from kleiber.scaling.fitting.objective import Objective
from kleiber.scaling.fitting.refit import fit_many
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import Model


@dataclass(frozen=True)
class PartFit:
    """What a forecast needs of a fit to some of the runs; a `FitResult` has all of it too."""

    law: str
    model: Model
    z: np.ndarray
    """float64 [P], the working point."""
    uncertainty: Uncertainty
    aicc: float
    num_points: int


def fit_part(fit: FitResult, rows: np.ndarray, starts: Sequence[np.ndarray] = ()) -> PartFit | None:
    """Returns the law of a fit on some of its runs by the same objective and trunks, or None if they cannot carry it.

    Args:
      fit: of all runs.
      rows: int [part], which of them.
      starts: working points [P] to start from besides the whole fit's.
    """
    model, log_loss = fit.model.on(rows), np.log(fit.points["loss"][rows])
    if len(rows) <= len(fit.z) + 1:
        return None
    labels = None if fit.clusters is None else np.asarray(fit.clusters)[rows]
    clusters = None if labels is None else make_clusters(labels)
    if clusters is not None and (clusters.count < 3 or clusters.sizes.max() == 1):
        labels, clusters = None, None
    objective = Objective(fit.objective_name, np.inf if fit.delta is None else fit.delta)
    found = fit_many(model, log_loss[None], np.stack([fit.z, *starts]), cluster=labels, objective=objective)
    z, ratio = found.z[0], float(found.ratio[0])
    predicted, jacobian = (each[0] for each in model.log_loss_and_jacobian(z[None]))
    if not np.isfinite(found.cost[0]) or not np.isfinite(jacobian).all():
        return None
    low, high = model.bounds
    free, residual = (z > low) & (z < high), log_loss - predicted
    uncertainty = fit_uncertainty(residual, jacobian, objective, clusters, ratio, free)
    return PartFit(
        fit.law, model, z, uncertainty, information(residual, clusters, ratio, int(free.sum()))[1], len(rows)
    )
