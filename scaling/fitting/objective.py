"""What is summed over log residuals: squares, Huber's function, or the log density of Student's t."""

from dataclasses import dataclass

import numpy as np

EFFICIENT_DELTA = 1.345
"""Huber's turning point in standard deviations, 95% as efficient as squares on normal errors (Huber 1964)."""
DEGREES = 4.0
"""Degrees of freedom of the Student-t objective."""


@dataclass(frozen=True)
class Objective:
    """A sum over log residuals r. `kind` is "gaussian", "huber" (turning at `delta`) or "student" (scale `delta`)."""

    kind: str = "gaussian"
    delta: float = np.inf

    def cost(self, residual: np.ndarray) -> np.ndarray:
        """Returns the sum over the last axis: r^2/2, or Huber's function, or the t log density up to a constant."""
        if self.kind == "huber":
            size = np.abs(residual)
            each = np.where(size <= self.delta, 0.5 * residual**2, self.delta * (size - 0.5 * self.delta))
        elif self.kind == "student":
            each = 0.5 * (DEGREES + 1) * self.delta**2 * np.log1p((residual / self.delta) ** 2 / DEGREES)
        else:
            each = 0.5 * residual**2
        return each.sum(axis=-1)

    def weight(self, residual: np.ndarray) -> np.ndarray:
        """Returns psi(r) / r, the weight of each residual in the equivalent weighted squares."""
        if self.kind == "huber":
            with np.errstate(divide="ignore"):
                return np.minimum(1.0, self.delta / np.abs(residual))
        if self.kind == "student":
            return (DEGREES + 1) / (DEGREES + (residual / self.delta) ** 2)
        return np.ones_like(residual)


def robust_scale(residual: np.ndarray, num_free: int) -> float:
    """Returns the standard deviation of the bulk of the residuals [runs], from the median of their sizes."""
    size = np.sort(np.abs(residual))
    # A fit with p parameters can null p residuals; leaving them out removes most of the small-sample bias.
    return float(np.median(size[min(num_free, len(size) - 1) :]) / 0.6745)


@dataclass(frozen=True)
class Influence:
    """What the residuals say of an M-estimate's error."""

    sigma: float
    """Standard deviation of one residual; of their bulk, for a robust objective."""
    psi: np.ndarray
    """float64 [runs], derivative of the objective by each residual."""
    slope: np.ndarray
    """float64 [runs], derivative of psi."""


def influence(objective: Objective, residual: np.ndarray, num_free: int) -> Influence:
    """Returns the influence of residuals [runs] at the minimum of `num_free` constants.

    Source: Huber 1981, section 7.6, with his small-sample correction; psi' is smoothed by a normal kernel where the
    turning point is far inside the errors, so that it stays an estimate of the error density (Powell 1991).
    """
    count = len(residual)
    if objective.kind == "gaussian":
        sigma = float(np.sqrt(residual @ residual / max(count - num_free, 1)))
        return Influence(max(sigma, 1e-15), residual, np.ones(count))
    sigma = max(robust_scale(residual, num_free), 1e-15)
    psi, slope = objective.weight(residual) * residual, _slopes(objective, residual, sigma)
    if not _is_sharp(objective, sigma):
        psi = psi * (1 + num_free / count * float(np.var(slope)) / max(float(slope.mean()), 0.05) ** 2)
    return Influence(sigma, psi, slope)


def _is_sharp(objective: Objective, sigma: float) -> bool:
    """Returns whether Huber's function is nearly the absolute value on errors of this size."""
    return objective.kind == "huber" and objective.delta < 0.5 * sigma


def _slopes(objective: Objective, residual: np.ndarray, sigma: float) -> np.ndarray:
    if _is_sharp(objective, sigma):
        from scipy.special import ndtr

        width = 1.06 * sigma * len(residual) ** -0.2
        return ndtr((objective.delta - residual) / width) - ndtr((-objective.delta - residual) / width)
    if objective.kind == "huber":
        return (np.abs(residual) <= objective.delta).astype(np.float64)
    ratio = (residual / objective.delta) ** 2
    return (DEGREES + 1) * (DEGREES - ratio) / (DEGREES + ratio) ** 2
