"""Whether intervals hold what they promise: simulated sweeps with a known truth, counted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.estimates import interval, transformed_gradient
from kleiber.scaling.fitting.noise import make_clusters
from kleiber.scaling.fitting.refit import Refits, refit_uncertainty
from kleiber.scaling.fitting.scaled_law import ScaledLaw
from kleiber.scaling.fitting.uncertainty import Uncertainty


@dataclass(frozen=True)
class Coverage:
    """How often an interval held the truth, over simulated sweeps."""

    level: float
    count: int
    rate: float
    bias: float
    """Mean error over the standard deviation of the estimates."""
    deviation: float
    """Standard deviation of the estimates (of their logarithms, for positive constants)."""
    spread: float
    """Standard deviation of the estimates over the root mean square of their stated standard errors."""
    median_degrees: float

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of the rate when the truth is the nominal level."""
        return float(np.sqrt(self.level * (1 - self.level) / self.count))


@dataclass(frozen=True)
class Truth:
    """What the intervals should hold."""

    scaled: ScaledLaw
    constants: Mapping[str, float]
    point: Mapping[str, float]
    """A run to predict."""
    new_run_sd: float
    """True standard deviation of log loss of one new run."""

    def log_loss(self) -> float:
        """Returns the true log loss at the point."""
        columns = {name: np.array([value]) for name, value in self.point.items()}
        return float(self.scaled.log_loss(self.scaled.working(self.constants)[None], columns)[0, 0])


def refitted(refits: Refits, log_losses: np.ndarray, cluster: np.ndarray | None = None) -> list[tuple]:
    """Returns (z, Uncertainty) of every refit, for `coverages`."""
    clusters = None if cluster is None else make_clusters(np.asarray(cluster))
    return [(refits.z[index], refit_uncertainty(refits, log_losses, index, clusters)) for index in range(len(refits.z))]


def coverages(
    truth: Truth, fits: Iterable[tuple[np.ndarray, Uncertainty]], level: float = 0.95, seed: int = 0
) -> dict[str, Coverage]:
    """Returns the coverage of each free constant, of a (if the law has one), of the loss at the point ("loss") and
    of one new measurement there ("new run").

    Args:
      truth: see `Truth`.
      fits: working point and uncertainty of each simulated fit.
      level: nominal probability.
      seed: of the new measurements.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[bool, float, float, float]]] = {}
    target = truth.log_loss()
    for z, uncertainty in fits:
        new = target + truth.new_run_sd * rng.standard_normal()
        for name, (value, gradient, extra, is_log, true) in _quantities(truth, z, target, new).items():
            variance, degrees = uncertainty.degrees(gradient, extra)
            deviation = float(np.sqrt(variance))
            low, high = interval(value, deviation, degrees, is_log, level)
            error = float(np.log(value / true)) if is_log else value - true
            rows.setdefault(name, []).append((low <= true <= high, error, deviation, degrees))
    out = {}
    for name, found in rows.items():
        held, errors, deviations, degrees = np.array(found, dtype=np.float64).T
        sd = float(np.std(errors, ddof=1))
        out[name] = Coverage(
            level=level,
            count=len(found),
            rate=float(held.mean()),
            bias=float(errors.mean()) / sd,
            deviation=sd,
            spread=sd / float(np.sqrt(np.mean(deviations**2))),
            median_degrees=float(np.median(degrees)),
        )
    return out


def _quantities(
    truth: Truth, z: np.ndarray, target: float, new: float
) -> dict[str, tuple[float, np.ndarray, float, bool, float]]:
    """Returns (value, gradient, share of new-run noise, whether it is in logarithms, true value) by name."""
    scaled = truth.scaled
    out: dict[str, tuple[float, np.ndarray, float, bool, float]] = {}
    for name in scaled.free:
        value, gradient, is_log = transformed_gradient(scaled, z, name)
        out[name] = (value, gradient, 0.0, is_log, float(truth.constants[name]))
    frontier = scaled.law.frontier
    if frontier and set(frontier) <= set(scaled.free):
        (x, slope_x, *_), (y, slope_y, *_) = (out[name] for name in frontier)
        true = truth.constants[frontier[1]] / truth.constants[frontier[0]]
        out["a"] = (y / x, slope_y - slope_x, 0.0, True, true)
    columns = {name: np.array([value]) for name, value in truth.point.items()}
    mean, jacobian = scaled.log_loss_and_jacobian(z[None], columns)
    out["loss"] = (float(mean[0, 0]), jacobian[0, 0], 0.0, False, target)
    out["new run"] = (float(mean[0, 0]), jacobian[0, 0], 1.0, False, new)
    return out
