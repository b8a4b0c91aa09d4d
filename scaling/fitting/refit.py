"""Thousands of fits of one law to the same runs with different losses, moved together as one array."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.chunks import CHUNK
from kleiber.scaling.fitting.fit import fit_uncertainty
from kleiber.scaling.fitting.minimise import levenberg_marquardt
from kleiber.scaling.fitting.noise import Clusters, make_clusters
from kleiber.scaling.fitting.objective import Objective
from kleiber.scaling.fitting.scaled_law import ScaledLaw, solution_at
from kleiber.scaling.fitting.search import residual_function
from kleiber.scaling.fitting.trunk_effect import refine_shared
from kleiber.scaling.fitting.uncertainty import Uncertainty


@dataclass(frozen=True)
class Refits:
    """Fits of one law to B sets of losses on the same runs."""

    scaled: ScaledLaw
    z: np.ndarray
    """float64 [B, P], working points."""
    cost: np.ndarray
    """float64 [B], objective of independent errors at the least-squares point; infinite where the fit failed."""
    ratio: np.ndarray
    """float64 [B], tau^2 / sigma^2; 0 without clusters."""
    num_failed: int


def fit_many(
    scaled: ScaledLaw,
    log_losses: np.ndarray,
    starts: np.ndarray,
    *,
    cluster: Sequence[str] | np.ndarray | None = None,
    objective: Objective | None = None,
) -> Refits:
    """Returns the best of several local fits for each set of losses.

    Args:
      scaled: law and runs (`make_scaled_law`).
      log_losses: float64 [B, runs].
      starts: float64 [S, P], tried for every set; [B, S, P] for starts of its own.
      cluster: trunk of each run, for a shared random effect.
      objective: squares if left out; with a cluster it must be.
    """
    objective = objective or Objective()
    log_losses = np.asarray(log_losses, np.float64)
    num_sets, num_runs = log_losses.shape
    starts = np.broadcast_to(starts, (num_sets, *np.shape(starts)[-2:]))
    num_starts = starts.shape[1]
    size = max(1, CHUNK // (num_runs * num_starts))
    z, cost, ratio = np.empty((num_sets, starts.shape[2])), np.empty(num_sets), np.zeros(num_sets)
    clusters = None if cluster is None else make_clusters(np.asarray(cluster))
    for first in range(0, num_sets, size):
        part = slice(first, min(first + size, num_sets))
        losses = log_losses[part]
        expanded = np.repeat(losses, num_starts, axis=0) if num_starts > 1 else losses
        found = levenberg_marquardt(
            residual_function(scaled, expanded), starts[part].reshape(-1, starts.shape[2]), scaled.bounds, objective
        )
        costs = found.cost.reshape(-1, num_starts)
        best = costs.argmin(axis=1)
        rows = np.arange(len(losses))
        z[part] = found.z.reshape(len(losses), num_starts, -1)[rows, best]
        cost[part] = costs[rows, best]
        if clusters is not None:
            z[part], ratio[part] = refine_shared(scaled, losses, z[part], clusters)
    return Refits(scaled, z, cost, ratio, int((~np.isfinite(cost)).sum()))


def refit_uncertainty(
    refits: Refits, log_losses: np.ndarray, index: int, clusters: Clusters | None = None
) -> Uncertainty:
    """Returns the uncertainty of one of the refits, by the same code that a single fit uses."""
    solution = solution_at(refits.scaled, refits.z[index], log_losses[index])
    return fit_uncertainty(solution, Objective(), clusters, float(refits.ratio[index]))


def simulate_losses(
    scaled: ScaledLaw,
    z: np.ndarray,
    count: int,
    seed: int,
    *,
    sigma: float,
    tau: float = 0.0,
    cluster: Sequence[str] | np.ndarray | None = None,
) -> np.ndarray:
    """Returns log losses [count, runs] drawn from a law: its curve, plus normal noise of points and of trunks.

    Args:
      scaled: law and runs.
      z: float64 [P], the true working point.
      count: how many sets.
      seed: of the draw; equal seeds give equal losses.
      sigma: standard deviation of a point.
      tau: standard deviation shared along a trunk.
      cluster: trunk of each run; needed with tau.
    """
    rng = np.random.default_rng(seed)
    clean = scaled.log_loss(z[None])[0]
    noise = sigma * rng.standard_normal((count, len(clean)))
    if tau:
        if cluster is None:
            raise ValueError("noise of trunks needs to know the trunk of each run: pass cluster.")
        clusters = make_clusters(np.asarray(cluster))
        noise += tau * rng.standard_normal((count, clusters.count))[:, clusters.index]
    return clean + (noise if scaled.measure.weights is None else noise / scaled.measure.weights)
