"""Profile likelihood: the best objective for each value of one constant, and the interval where it is near the best."""

from dataclasses import dataclass, replace

import numpy as np

from kleiber.scaling.fitting.estimates import t_quantile
from kleiber.scaling.fitting.minimise import levenberg_marquardt
from kleiber.scaling.fitting.noise import make_clusters
from kleiber.scaling.fitting.objective import influence
from kleiber.scaling.fitting.result import Estimate, FitResult
from kleiber.scaling.fitting.search import LONG, residual_function

REACH, POINTS = 4.0, 41
"""Of a profile: half-width in standard errors of the working coordinate (more if t is large), and values in it."""


@dataclass(frozen=True)
class Profile:
    """The best objective for each value of one constant."""

    name: str
    values: np.ndarray
    """float64 [points], in the units of the columns."""
    objective: np.ndarray
    """float64 [points]."""
    limit: float
    """Of the objective, at the ends of the interval."""
    interval_95: tuple[float, float]
    """Where the profile passes its limit; infinite ends where it never does within the range."""


def can_be_profiled(fit: FitResult, name: str) -> bool:
    """Returns whether a constant is fitted, and no unit rescales it through another constant."""
    scaled = fit.scaled
    return name in scaled.free and not any(isinstance(power, str) for _, power in scaled.law[name].scale)


def profile(fit: FitResult, name: str) -> Profile:
    """Returns the profile of the objective over one constant, the others refitted at each value.

    The limit is where a parabola of the objective's own curvature has its ends of the t interval, so that profile and
    interval agree where the objective is a parabola, whatever the sandwich says of the noise.

    Args:
      fit: with clusters the whitening stays as fitted.
      name: a fitted constant that no unit rescales through an exponent (E, exponents, q).

    Raises:
      ValueError: for a constant that cannot be profiled this way.
    """
    scaled, kind = fit.scaled, fit.summed
    if not can_be_profiled(fit, name):
        choices = [each for each in scaled.free if not scaled.law[each].scale]
        raise ValueError(f"constant {name!r} cannot be profiled; choose one of {', '.join(choices)}.")
    index = scaled.free.index(name)
    ratio = (fit.noise.tau / fit.noise.sigma) ** 2 if kind.kind == "gaussian" and not fit.intervals_only else 0.0
    clusters = make_clusters(np.array(fit.clusters)) if fit.clusters and ratio else None
    plain = residual_function(scaled, scaled.measure.of(fit.points["loss"]), clusters, np.full(POINTS, ratio))
    residual, jacobian = (each[0] for each in plain(fit.z[None], np.zeros(1, int)))
    said = influence(kind, residual, len(fit.z))
    curvature = np.linalg.pinv((jacobian.T * np.maximum(said.slope, 0)) @ jacobian, hermitian=True)[index, index]
    variance, degrees = fit.uncertainty.degrees(np.eye(len(fit.z))[index])
    at_bound = not variance
    variance, degrees = (said.sigma**2 * curvature, fit.num_points - len(fit.z)) if at_bound else (variance, degrees)
    t = float(t_quantile(degrees, 0.975))
    values = fit.z[index] + np.sqrt(variance) * max(REACH, 1.5 * t) * np.linspace(-1, 1, POINTS)

    def residuals(z: np.ndarray, problem: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        residual, jacobian = plain(z, problem)
        jacobian = jacobian.copy()
        jacobian[..., index] = 0.0
        return residual, jacobian

    start = np.repeat(fit.z[None], POINTS, axis=0)
    start[:, index] = values = np.clip(values, scaled.bounds[0][index], scaled.bounds[1][index])
    cost = levenberg_marquardt(residuals, start, scaled.bounds, kind).cost
    limit = fit.objective + 0.5 * t**2 * variance / curvature
    middle = POINTS // 2
    low = _crossing(values[middle::-1], cost[middle::-1], limit, -np.inf)
    high = _crossing(values[middle:], cost[middle:], limit, np.inf)
    ends = values, np.float64(low), np.float64(high)
    values, low, high = map(np.exp, ends) if scaled.law[name].transform == "log" else ends
    unit = _unit(fit, name)
    return Profile(name, unit * values, cost, limit, (float(unit * low), float(unit * high)))


def _crossing(values: np.ndarray, cost: np.ndarray, limit: float, nowhere: float) -> float:
    """Returns where the cost first exceeds the limit going outwards, by linear interpolation; or `nowhere`."""
    above = np.flatnonzero(cost > limit)
    if not above.size or above[0] == 0:
        return nowhere
    last = int(above[0])
    share = (limit - cost[last - 1]) / (cost[last] - cost[last - 1])
    return float(values[last - 1] + share * (values[last] - values[last - 1]))


def _unit(fit: FitResult, name: str) -> float:
    """Returns what the constant of a working point is multiplied by to be in the units of the columns."""
    scaled = fit.scaled
    return float(np.prod([scaled.scales[variable] ** float(power) for variable, power in scaled.turning[name]]))


def within_bounds(fit: FitResult) -> FitResult:
    """Returns the fit with intervals that end inside the range of their constant: where the delta method goes beyond,
    as for a floor near 0, the profile says how far the constant may be instead."""
    parameters = {name: _inside(fit, name, each) for name, each in fit.parameters.items()}
    return replace(fit, parameters=parameters)


def _inside(fit: FitResult, name: str, each: Estimate) -> Estimate:
    if not can_be_profiled(fit, name) or fit.scaled.law[name].transform == "log" or each.withheld:
        return each
    if any(isinstance(power, str) for _, power in fit.scaled.turning[name]):
        return each  # its unit turns with another constant, and the profile with it
    index = fit.scaled.free.index(name)
    least, most = (float(bound[index]) * _unit(fit, name) for bound in fit.scaled.bounds)
    low, high = each.interval_95
    if not each.at_bound and least <= low and high <= most:
        return each
    if fit.num_points <= LONG:
        found = profile(fit, name).interval_95
        low, high = (new if np.isfinite(new) else old for new, old in zip(found, (low, high), strict=True))
    return replace(each, interval_95=(max(low, least), min(high, most)))
