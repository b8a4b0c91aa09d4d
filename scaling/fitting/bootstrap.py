"""Parametric bootstrap and profile likelihood: cross-checks of the default intervals."""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from kleiber.scaling.fitting.minimise import levenberg_marquardt
from kleiber.scaling.fitting.noise import make_clusters
from kleiber.scaling.fitting.refit import Refits, fit_many, simulate_losses
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.search import residual_function

REACH, POINTS = 4.0, 41
"""Of a profile: half-width in standard errors of the working coordinate, and values in it."""


def parametric_bootstrap(fit: FitResult, count: int = 1000, seed: int = 0) -> Refits:
    """Returns refits of losses drawn from the fitted law and its noise, trunks included.

    Args:
      fit: by squares.
      count: how many sets of losses.
      seed: of the draw.

    Raises:
      ValueError: for a fit by another objective.
    """
    _by_squares(fit)
    cluster = None if fit.clusters is None else np.array(fit.clusters)
    losses = simulate_losses(fit.scaled, fit.z, count, seed, sigma=fit.noise.sigma, tau=fit.noise.tau, cluster=cluster)
    return fit_many(fit.scaled, losses, fit.z[None], cluster=cluster)


@dataclass(frozen=True)
class Profile:
    """The best objective for each value of one constant."""

    name: str
    values: np.ndarray
    """float64 [points], in the units of the columns."""
    objective: np.ndarray
    """float64 [points]."""
    interval_95: tuple[float, float]
    """Where the profile passes the F limit; infinite ends where it never does within the range."""


def profile(fit: FitResult, name: str) -> Profile:
    """Returns the profile of the sum of squares over one constant, the others refitted at each value.

    Args:
      fit: by squares; with clusters the whitening stays as fitted.
      name: a fitted constant that no unit rescales through an exponent (E, exponents, q).

    Raises:
      ValueError: for another objective, or a constant that cannot be profiled this way.
    """
    _by_squares(fit)
    scaled = fit.scaled
    if name not in scaled.free or any(isinstance(power, str) for _, power in scaled.law[name].scale):
        choices = [each for each in scaled.free if not scaled.law[each].scale]
        raise ValueError(f"constant {name!r} cannot be profiled; choose one of {', '.join(choices)}.")
    index = scaled.free.index(name)
    deviation = float(np.sqrt(fit.uncertainty.covariance[index, index]))
    values = fit.z[index] + deviation * np.linspace(-REACH, REACH, POINTS)
    clusters = None if fit.clusters is None else make_clusters(np.array(fit.clusters))
    ratio = np.full(POINTS, (fit.noise.tau / fit.noise.sigma) ** 2)
    plain = residual_function(scaled, scaled.measure.of(fit.points["loss"]), clusters, ratio)

    def residuals(z: np.ndarray, problem: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residual, jacobian = plain(z, problem)
        jacobian = jacobian.copy()
        jacobian[..., index] = 0.0
        return residual, jacobian

    start = np.repeat(fit.z[None], POINTS, axis=0)
    start[:, index] = np.clip(values, scaled.bounds[0][index], scaled.bounds[1][index])
    found = levenberg_marquardt(residuals, start, scaled.bounds)
    degrees = fit.num_points - len(fit.z)
    limit = fit.objective * (1 + float(stdtrit(degrees, 0.975)) ** 2 / degrees)
    middle, is_log = POINTS // 2, scaled.law[name].transform == "log"
    low = _crossing(values[middle::-1], found.cost[middle::-1], limit, -np.inf)
    high = _crossing(values[middle:], found.cost[middle:], limit, np.inf)
    turn = np.exp if is_log else np.asarray
    return Profile(name, turn(values), found.cost, (float(turn(low)), float(turn(high))))


def _crossing(values: np.ndarray, cost: np.ndarray, limit: float, nowhere: float) -> float:
    """Returns where the cost first exceeds the limit going outwards, by linear interpolation; or `nowhere`."""
    above = np.flatnonzero(cost > limit)
    if not above.size or above[0] == 0:
        return nowhere
    last = int(above[0])
    share = (limit - cost[last - 1]) / (cost[last] - cost[last - 1])
    return float(values[last - 1] + share * (values[last] - values[last - 1]))


def _by_squares(fit: FitResult) -> None:
    if fit.objective_name != "gaussian":
        raise ValueError(f"bootstrap and profile need a fit by squares, this one used {fit.objective_name}.")
