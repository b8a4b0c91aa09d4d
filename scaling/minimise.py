"""Batched Levenberg-Marquardt in numpy: thousands of small fits move together as one array."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.memory import keep_freed_memory
from kleiber.scaling.objective import Objective

Residuals = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(z [b, P], which problems [b]) -> residual [b, runs] and its derivative by z [b, runs, P]."""


@dataclass(frozen=True)
class Minimum:
    """Where each of B problems ended."""

    z: np.ndarray
    """float64 [B, P]."""
    cost: np.ndarray
    """float64 [B]; infinite where no finite point was found."""
    converged: np.ndarray
    """bool [B]."""


def levenberg_marquardt(
    residuals: Residuals,
    start: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    objective: Objective | None = None,
    *,
    max_steps: int = 200,
    tolerance: float = 1e-13,
) -> Minimum:
    """Returns local minima of the objective from each start.

    Args:
      residuals: see `Residuals`.
      start: float64 [B, P], one start a problem.
      bounds: smallest and largest z, float64 [P] each; steps are clipped to them.
      objective: squares if left out; others are minimised by reweighting.
      max_steps: steps at most.
      tolerance: a problem has converged when a step changes no coordinate by more than this, relative to its
        curvature, or when its cost no longer falls by this share.

    Returns:
      Minimum; problems whose every trial is not finite keep an infinite cost.
    """
    keep_freed_memory()
    objective = objective or Objective()
    low, high = bounds
    z = np.clip(start, low, high)
    problem = np.arange(len(z))
    with np.errstate(all="ignore"):
        state = _evaluate(residuals, objective, z, problem)
        cost, gradient, normal = state
        damping = np.full(len(z), 1e-3)
        growth = np.full(len(z), 2.0)
        active = np.isfinite(cost)
        converged = np.zeros(len(z), dtype=bool)
        steps = 0
        while active.any() and steps < max_steps:
            steps += 1
            on = np.flatnonzero(active)
            step, expected = _step(z[on], gradient[on], normal[on], damping[on], low, high)
            trial = np.clip(z[on] + step, low, high)
            new_cost, new_gradient, new_normal = _evaluate(residuals, objective, trial, on)
            better = new_cost < cost[on]
            flat = expected <= tolerance * cost[on]
            small = np.all(np.abs(step) <= tolerance * 10 * (1 + np.abs(z[on])), axis=1)
            gain = (cost[on] - new_cost) / np.maximum(expected, 1e-300)
            won, lost = on[better], on[~better]
            z[won], cost[won] = trial[better], new_cost[better]
            gradient[won], normal[won] = new_gradient[better], new_normal[better]
            # Nielsen 1999: damping follows the ratio of the gain to the gain the linear model promised.
            damping[won] *= np.clip(1 - (2 * gain[better] - 1) ** 3, 1 / 5, 2)
            growth[won] = 2.0
            damping[lost] *= growth[lost]
            growth[lost] *= 2
            stuck = ~better & (damping[on] > 1e12)
            done = (flat | small) & (better | flat) | stuck
            converged[on] |= done
            active[on] = ~done
    return Minimum(z, np.where(np.isfinite(cost), cost, np.inf), converged)


def _evaluate(
    residuals: Residuals, objective: Objective, z: np.ndarray, problem: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the cost [b], gradient [b, P] and normal matrix [b, P, P]."""
    residual, jacobian = residuals(z, problem)
    turned = np.swapaxes(jacobian, 1, 2)
    if objective.kind != "gaussian":
        turned = turned * objective.weight(residual)[:, None, :]
    cost, normal = objective.cost(residual), np.matmul(turned, jacobian)
    # One derivative that is not finite spoils its diagonal element.
    bad = ~(np.isfinite(cost) & np.isfinite(np.einsum("bpp->bp", normal)).all(axis=1))
    return np.where(bad, np.inf, cost), np.matmul(turned, residual[..., None])[..., 0], normal


def _step(
    z: np.ndarray, gradient: np.ndarray, normal: np.ndarray, damping: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the damped step [b, P] and the fall in cost it promises [b]; coordinates pushed out stay put."""
    held = ((z <= low) & (gradient > 0)) | ((z >= high) & (gradient < 0))
    gradient = np.where(held, 0.0, gradient)
    normal = np.where(held[:, :, None] | held[:, None, :], 0.0, normal)
    diagonal = np.einsum("bpp->bp", normal)
    largest = np.maximum(diagonal.max(axis=1, keepdims=True), 1e-300)
    scale = np.where(held, 1.0, np.maximum(diagonal, 1e-15 * largest))
    # Scaling to a unit diagonal first keeps the solve sound for constants of very different sizes.
    root = np.sqrt(scale)
    scaled = normal / (root[:, :, None] * root[:, None, :])
    index = np.arange(z.shape[1])
    scaled[:, index, index] += damping[:, None] + 1e-15 + held
    step = -np.linalg.solve(scaled, (gradient / root)[..., None])[..., 0] / root
    step = np.where(np.isfinite(step), step, 0.0)
    step = np.clip(step, -5.0, 5.0)
    quadratic = np.einsum("bp,bpq,bq->b", step, normal, step)
    return step, -np.einsum("bp,bp->b", gradient, step) - 0.5 * quadratic


def newton_polish(
    residuals: Residuals,
    z: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    objective: Objective,
    max_steps: int = 100,
) -> tuple[np.ndarray, float]:
    """Returns a sharper minimum [P] and its cost, by Newton steps with second derivatives.

    Reweighting converges slowly for Huber's function with a turning point far inside the errors; this finishes it.
    """
    low, high = bounds
    num_free = len(z)
    one = np.zeros(1, dtype=int)
    with np.errstate(all="ignore"):
        cost, gradient, normal = (each[0] for each in _evaluate(residuals, objective, z[None], one))
        damping = 1e-6
        for _ in range(max_steps):
            width = 1e-6 * np.maximum(1.0, np.abs(z))
            points = np.concatenate([z + np.diag(width), z - np.diag(width)])
            slopes = _evaluate(residuals, objective, points, np.zeros(2 * num_free, dtype=int))[1]
            hessian = (slopes[:num_free] - slopes[num_free:]) / (2 * width[:, None])
            hessian = 0.5 * (hessian + hessian.T)
            if not np.isfinite(hessian).all():
                break  # at the edge of where the law is defined
            free = ~(((z <= low) & (gradient > 0)) | ((z >= high) & (gradient < 0)))
            moved = False
            while damping < 1e10:
                size = np.maximum(np.diag(normal)[free], max(1e-15 * float(np.diag(normal).max()), 1e-300))
                matrix = hessian[np.ix_(free, free)] + damping * np.diag(size)
                values, vectors = np.linalg.eigh(matrix / np.sqrt(np.outer(size, size)))
                values = np.maximum(np.abs(values), 1e-12)
                scaled = gradient[free] / np.sqrt(size)
                step = np.zeros(num_free)
                step[free] = -(vectors @ ((vectors.T @ scaled) / values)) / np.sqrt(size)
                trial = np.clip(z + step, low, high)
                new = [each[0] for each in _evaluate(residuals, objective, trial[None], one)]
                if new[0] < cost:
                    fall = cost - new[0]
                    z, (cost, gradient, normal) = trial, new
                    damping = max(damping / 10, 1e-12)
                    moved = fall > 1e-15 * cost
                    break
                damping *= 10
            if not moved:
                break
            damping = min(damping, 1e4)
    return z, float(cost)
