"""The rectangular grid of sizes and token counts that most people run, at its best: the yardstick for a design."""

from dataclasses import dataclass

import numpy as np

from kleiber.scaling.designing.design import ExpectedErrors, expected_from
from kleiber.scaling.fitting.known import Known
from kleiber.scaling.law import Values


@dataclass(frozen=True)
class Grid:
    """Every size with every token count, both in equal ratios."""

    num_params: np.ndarray
    num_tokens: np.ndarray
    columns: Values
    """float64 [runs]."""
    flops: float
    expected: ExpectedErrors
    """From the grid and the runs already there."""


def best_grid(
    known: Known,
    targets: Values,
    budget: float,
    num_runs: int,
    num_params: tuple[float, float],
    num_tokens: tuple[float, float],
    max_flops: float,
    *,
    flops_per_param_token: float = 6.0,
) -> Grid | None:
    """Returns the rectangular grid of least expected error at the targets, or None if none is affordable.

    Every pair of side lengths is tried, with the corners moved over the ranges and the largest token count as large as
    the budget and the largest run allow.

    Args:
      known: the law designed for, of parameters and tokens.
      targets: the law's variables [targets].
      budget: FLOPs of all runs together.
      num_runs: runs at most; sides multiply to as many as they can.
      num_params, num_tokens: smallest and largest allowed.
      max_flops: largest single run.
      flops_per_param_token: training FLOPs per parameter and token.
    """
    best = None
    pairs = [(a, num_runs // a) for a in range(3, num_runs // 3 + 1)]
    for sides in (pair for pair in pairs if pair[0] * pair[1] >= 0.95 * num_runs):
        for sizes, tokens in _corners(sides, num_params, num_tokens, budget, max_flops, flops_per_param_token):
            runs = {"num_params_total": np.repeat(sizes, len(tokens)), "num_tokens": np.tile(tokens, len(sizes))}
            expected = expected_from(known, runs, None, targets)
            error = float(np.sqrt(np.mean(expected.forecast**2)))
            if best is None or error < best[0]:
                flops = flops_per_param_token * float(sizes.sum() * tokens.sum())
                best = error, Grid(sizes, tokens, runs, flops, expected)
    return best[1] if best else None


def _corners(
    sides: tuple[int, int],
    num_params: tuple[float, float],
    num_tokens: tuple[float, float],
    budget: float,
    max_flops: float,
    flops_per_param_token: float,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the sizes and token counts of every grid worth trying; each spends what it can."""
    found = []
    for smallest in np.geomspace(num_params[0], num_params[1] / 3, 4):
        for largest in np.geomspace(3 * smallest, num_params[1], 8):
            sizes = np.geomspace(smallest, largest, sides[0])
            for fewest in np.geomspace(num_tokens[0], num_tokens[1] / 3, 4):
                most = min(num_tokens[1], max_flops / flops_per_param_token / largest)
                affordable = budget / flops_per_param_token / sizes.sum()
                if np.geomspace(fewest, max(most, fewest), sides[1]).sum() > affordable:
                    low, high = fewest, most
                    for _ in range(40):
                        middle = np.sqrt(low * high)
                        fits = np.geomspace(fewest, middle, sides[1]).sum() <= affordable
                        low, high = (middle, high) if fits else (low, middle)
                    most = low
                if most >= 3 * fewest:
                    found.append((sizes, np.geomspace(fewest, most, sides[1])))
    return found
