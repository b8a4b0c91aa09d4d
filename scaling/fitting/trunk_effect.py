"""Least squares when the points of a trunk share a random effect: constants and its size, each given the other."""

import numpy as np

from kleiber.scaling.fitting.minimise import levenberg_marquardt
from kleiber.scaling.fitting.noise import Clusters, cross_products, estimate_ratio, restricted_likelihood
from kleiber.scaling.fitting.scaled_law import ScaledLaw
from kleiber.scaling.fitting.search import residual_function

PROFILE_RATIOS = np.exp(np.linspace(np.log(0.03), np.log(300.0), 25))
"""Values of tau^2 / sigma^2 looked at one by one when the rounds run away."""
RUNAWAY = 1.5
"""Residuals this many times the least-squares ones mean that the random effects took over from the law."""


def refine_shared(
    scaled: ScaledLaw, log_loss: np.ndarray, z: np.ndarray, clusters: Clusters, max_rounds: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the generalised-least-squares points [b, P] and tau^2 / sigma^2 [b], each round improving the other.

    The rounds can run away when the law does not fit: trunks that take up all misfit leave the constants free, which
    makes more misfit for the trunks to take up. Where the residuals end far above the least-squares ones, the smallest
    ratio counts at which the likelihood has a peak of its own. If it has none, the effects cannot be told from the law:
    the least-squares point stays, with a ratio of 0, and its intervals come from how the trunks err together.

    Args:
      scaled: law and columns.
      log_loss: float64 [b, runs].
      z: float64 [b, P], the least-squares points.
    """
    refined, ratio = _alternate(scaled, log_loss, z, np.ones(len(z)), clusters, max_rounds)
    ran_away = _rms(scaled, log_loss, refined) > RUNAWAY * _rms(scaled, log_loss, z)
    for row in np.flatnonzero(ran_away):
        refined[row], ratio[row] = _first_peak(scaled, log_loss[row], z[row], clusters)
    return refined, ratio


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


def _first_peak(scaled: ScaledLaw, log_loss: np.ndarray, z: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, float]:
    """Returns the point [P] and ratio of the first peak of the likelihood with sound residuals, or z and 0."""
    count = len(PROFILE_RATIOS)
    losses, problem = np.repeat(log_loss[None], count, axis=0), np.arange(count)
    residuals = residual_function(scaled, losses, clusters, PROFILE_RATIOS)
    point = levenberg_marquardt(residuals, np.repeat(z[None], count, axis=0), scaled.bounds).z
    residual, jacobian = residual_function(scaled, losses)(point, problem)
    sums = cross_products(-residual, jacobian, clusters)
    value = restricted_likelihood(sums, clusters, PROFILE_RATIOS) + 0.5 * np.log(PROFILE_RATIOS)
    is_peak = (value[1:-1] > value[:-2]) & (value[1:-1] > value[2:])
    is_sound = _rms(scaled, losses, point) <= RUNAWAY * _rms(scaled, log_loss[None], z[None])
    found = np.flatnonzero(is_peak & is_sound[1:-1])
    return (point[found[0] + 1], float(PROFILE_RATIOS[found[0] + 1])) if len(found) else (z, 0.0)
