"""Approach 2: a parabola through each isoFLOP slice. Kept as a cross-check, because its intercepts are biased."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class IsoflopFit:
    """Compute-optimal parameters and tokens as power laws of compute: N = N_scale C^a, D = D_scale C^b."""

    a: float
    log_N_scale: float
    b: float
    log_D_scale: float
    vertices: np.ndarray
    """float64 [budgets], log parameters at each parabola's lowest point."""

    def num_tokens(self, flops: float) -> float:
        """Returns the tokens it advises for a budget."""
        return float(np.exp(self.log_D_scale + self.b * np.log(flops)))

    def num_params(self, flops: float) -> float:
        """Returns the parameters it advises for a budget."""
        return float(np.exp(self.log_N_scale + self.a * np.log(flops)))


def fit_isoflop(num_params: np.ndarray, flops: np.ndarray, loss: np.ndarray) -> IsoflopFit:
    """Returns power laws through the vertices of parabolas in log parameters, one for each distinct budget.

    Known bias: the loss is not a parabola in log N, so the vertex is shifted by a constant that depends on the
    exponents and the width of the slice; a and b survive, the intercepts do not.

    Args:
      num_params, flops, loss: float64 [runs]; runs of a budget share the same value of flops.

    Raises:
      ValueError: with fewer than 2 budgets of at least 3 sizes, or a slice without a lowest point.

    Source: Hoffmann et al. 2022, section 3.2; the bias: Czech 2026, arXiv:2603.22339.
    """
    budgets = np.unique(flops)
    vertices = []
    for budget in budgets:
        rows = flops == budget
        x = np.log(num_params[rows])
        if len(np.unique(x)) < 3:
            raise ValueError(f"budget {budget:g} has {len(np.unique(x))} sizes; a parabola needs 3.")
        curvature, slope, _ = np.polyfit(x - x.mean(), loss[rows], 2)
        if curvature <= 0:
            raise ValueError(f"budget {budget:g}: the slice has no lowest point; widen it.")
        vertices.append(x.mean() - slope / (2 * curvature))
    if len(budgets) < 2:
        raise ValueError("one budget gives no exponent; run at least two.")
    best = np.array(vertices)
    a, log_N_scale = np.polyfit(np.log(budgets), best, 1)
    b, log_D_scale = np.polyfit(np.log(budgets), np.log(budgets / 6) - best, 1)
    return IsoflopFit(float(a), float(log_N_scale), float(b), float(log_D_scale), best)
