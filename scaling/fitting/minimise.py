"""Batched Levenberg-Marquardt in numpy: thousands of small fits move together as one array."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.chunks import keep_freed_memory
from kleiber.scaling.fitting.objective import Objective

Residuals = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(z [b, P], which problems [b]) -> residual [b, runs] and its derivative by z [b, runs, P]."""


LONGEST_STRETCH = 4.0
"""Reweighted steps are made longer by this at most."""


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
        cost, gradient, normal = _evaluate(residuals, objective, z, problem)
        damping = np.full(len(z), 1e-3)
        growth = np.full(len(z), 2.0)
        stretch, is_reweighted = np.ones(len(z)), objective.kind != "gaussian"
        active = np.isfinite(cost)
        converged = np.zeros(len(z), dtype=bool)
        on = np.flatnonzero(active)
        for _ in range(max_steps):
            if not len(on):
                break
            here, before = z[on], cost[on]
            step, expected = _step(here, gradient[on], normal[on], damping[on], low, high)
            trial = np.minimum(np.maximum(here + stretch[on, None] * step, low), high)
            new_cost, new_gradient, new_normal = _evaluate(residuals, objective, trial, on)
            better = new_cost < before
            flat = expected <= tolerance * before
            small = (np.abs(step) <= tolerance * 10 * (1 + np.abs(here))).all(axis=1)
            gain = (before - new_cost) / np.maximum(expected, 1e-300)
            won, lost = on[better], on[~better]
            z[won], cost[won] = trial[better], new_cost[better]
            gradient[won], normal[won] = new_gradient[better], new_normal[better]
            # Nielsen 1999: damping follows the ratio of the gain to the gain the linear model promised.
            damping[won] *= np.minimum(np.maximum(1 - (2 * gain[better] - 1) ** 3, 1 / 5), 2)
            growth[won] = 2.0
            if is_reweighted:
                # Salakhutdinov and Roweis 2003: reweighting takes ever longer steps until one fails.
                stretch[won] = np.minimum(1.2 * stretch[won], LONGEST_STRETCH)
                patient = lost[stretch[lost] == 1.0]
                stretch[lost] = 1.0
                lost = patient
            damping[lost] *= growth[lost]
            growth[lost] *= 2
            stuck = ~better & (damping[on] > 1e12)
            done = (flat | small) & (better | flat) | stuck
            converged[on] |= done
            on = on[~done]
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
    sound = np.isfinite(cost + np.trace(normal, axis1=1, axis2=2))
    return np.where(sound, cost, np.inf), np.matmul(turned, residual[..., None])[..., 0], normal


def _step(
    z: np.ndarray, gradient: np.ndarray, normal: np.ndarray, damping: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the damped step [b, P] and the fall in cost it promises [b]; coordinates pushed out stay put."""
    held = ((z <= low) & (gradient > 0)) | ((z >= high) & (gradient < 0))
    index = np.arange(z.shape[1])
    any_held = bool(held.any())
    if any_held:
        gradient = np.where(held, 0.0, gradient)
        normal = np.where(held[:, :, None] | held[:, None, :], 0.0, normal)
    diagonal = normal[:, index, index]
    scale = np.maximum(diagonal, np.maximum(1e-15 * diagonal.max(axis=1, keepdims=True), 1e-300))
    if any_held:
        scale = np.where(held, 1.0, scale)
    # Scaling to a unit diagonal first keeps the solve sound for constants of very different sizes.
    root = np.sqrt(scale)
    scaled = normal / (root[:, :, None] * root[:, None, :])
    scaled[:, index, index] += damping[:, None] + 1e-15
    if any_held:
        scaled[:, index, index] += held
    step = np.linalg.solve(scaled, (gradient / root)[..., None])[..., 0] / -root
    step[~np.isfinite(step)] = 0.0
    np.maximum(step, -5.0, out=step)
    np.minimum(step, 5.0, out=step)
    turned = np.matmul(step[:, None, :], normal)[:, 0]
    return step, -((gradient + 0.5 * turned) * step).sum(axis=1)


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
