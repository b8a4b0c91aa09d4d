"""Least squares when the points of a trunk share a random effect: constants and its size, each given the other."""

import numpy as np

from kleiber.scaling.fitting.minimise import levenberg_marquardt
from kleiber.scaling.fitting.noise import Clusters, estimate_ratio
from kleiber.scaling.fitting.scaled_law import ScaledLaw
from kleiber.scaling.fitting.search import residual_function

RUNAWAY = 1.5
"""Residuals this many times the least-squares ones mean that the random effects took over from the law."""


def refine_shared(
    scaled: ScaledLaw, log_loss: np.ndarray, z: np.ndarray, clusters: Clusters, max_rounds: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the generalised-least-squares points [b, P] and tau^2 / sigma^2 [b], each round improving the other.

    The rounds can run away when the law does not fit: trunks that take up all misfit leave the constants free, which
    makes more misfit for the trunks to take up. Where the residuals end far above the least-squares ones, the
    least-squares point stays, with a ratio of 0: its intervals come from how the trunks are seen to err together.

    Args:
      scaled: law and columns.
      log_loss: float64 [b, runs].
      z: float64 [b, P], the least-squares points.
    """
    refined, ratio = _alternate(scaled, log_loss, z, np.ones(len(z)), clusters, max_rounds)
    ran_away = _rms(scaled, log_loss, refined) > RUNAWAY * _rms(scaled, log_loss, z)
    return np.where(ran_away[:, None], z, refined), np.where(ran_away, 0.0, ratio)


def _rms(scaled: ScaledLaw, log_loss: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(residual_function(scaled, log_loss)(z, np.arange(len(z)))[0] ** 2, axis=1))


def _alternate(
    scaled: ScaledLaw, log_loss: np.ndarray, z: np.ndarray, ratio: np.ndarray, clusters: Clusters, max_rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Alternates between the ratio given the constants and the constants given the ratio until both stay put."""
    z, ratio = z.copy(), ratio.copy()
    low, high = scaled.bounds
    moving = np.arange(len(z))
    for _ in range(max_rounds):
        residual, jacobian = residual_function(scaled, log_loss[moving])(z[moving], np.arange(len(moving)))
        at_bound = (z[moving] <= low) | (z[moving] >= high)
        jacobian = np.where(at_bound[:, None, :], 0.0, jacobian)
        new = estimate_ratio(-residual, jacobian, clusters)
        settled = np.abs(np.log(new / ratio[moving])) < 1e-5
        ratio[moving] = new
        moving = moving[~settled]
        if not len(moving):
            break
        residuals = residual_function(scaled, log_loss[moving], clusters, ratio[moving])
        z[moving] = levenberg_marquardt(residuals, z[moving], scaled.bounds).z
    return z, ratio
