"""What the figures draw: measured points, registered targets, training curves and the frontier, as plain arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]
Predict = Callable[[Floats, Floats], Floats]
"""(num_params, num_tokens), any one shape -> loss by the law, nats per token."""
Band = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""(num_params, num_tokens), [points] each -> (low, high), the interval of one new run's loss."""
Cost = Callable[[Floats], Floats]
"""num_params -> training FLOPs per token."""

MOST_MARKS = 2_000
"""Runs that one figure draws; more than that hide each other. Claims, fits and ranges use all of them."""
MOST_SIZES = 24
"""Sizes that a figure draws each in a line or a panel of its own."""


def even_rows(values: Floats, most: int = MOST_MARKS) -> NDArray[np.intp]:
    """Returns the indices of all values [runs], or of `most` that lie evenly in their order, both ends included."""
    if len(values) <= most:
        return np.arange(len(values))
    chosen = np.linspace(0, len(values) - 1, most).round().astype(int)
    return np.sort(np.argsort(values, kind="stable")[chosen])


@dataclass(frozen=True)
class Points:
    """Measured runs, one entry a run, in one order."""

    num_params: Floats
    """[runs], total parameters."""
    num_tokens: Floats
    """[runs], training tokens seen."""
    flops: Floats
    """[runs], counted training FLOPs."""
    loss: Floats
    """[runs], nats per token on the validation set."""
    trunk: tuple[str, ...]
    """Name of the trunk each run was branched from; runs of one trunk share their noise."""

    def __len__(self) -> int:
        return len(self.trunk)

    def rows(self, rows: NDArray[np.intp]) -> "Points":
        """Returns some of the runs."""
        trunks = tuple(self.trunk[row] for row in rows)
        return Points(self.num_params[rows], self.num_tokens[rows], self.flops[rows], self.loss[rows], trunks)

    @cached_property
    def drawn(self) -> "Points":
        """The runs that a figure marks: all, or MOST_MARKS of them, evenly over sizes and the losses of each."""
        by_size = np.empty(len(self))
        by_size[np.lexsort((self.loss, self.num_params))] = np.arange(len(self))
        return self if len(self) <= MOST_MARKS else self.rows(even_rows(by_size))

    @property
    def drawn_note(self) -> str:
        """Says that not every run is drawn, for the line of detail; empty when all are."""
        return f"; {MOST_MARKS:,} of {len(self):,} runs drawn" if len(self) > MOST_MARKS else ""

    @cached_property
    def drawn_sizes(self) -> Floats:
        """The sizes, or MOST_SIZES of them, evenly in their order."""
        sizes = np.unique(self.num_params)
        return sizes[even_rows(sizes, MOST_SIZES)]

    @property
    def sizes_note(self) -> str:
        """Says that not every size is drawn, for the line of detail; empty when all are."""
        number = len(np.unique(self.num_params))
        return f"; {MOST_SIZES} of {number:,} sizes drawn" if number > MOST_SIZES else ""


@dataclass(frozen=True)
class ForecastRun:
    """A run that was forecast, and its outcome if there is one."""

    name: str
    num_params: float
    num_tokens: float
    flops: float
    compute_ratio: float
    """FLOPs over those of the largest fitted run."""
    predicted: float
    """Forecast loss, nats per token."""
    low: float
    high: float
    level: float
    """Probability of the interval [low, high]."""
    observed: float | None = None
    """Measured loss, nats per token; None until the run is done."""

    @property
    def signed_error(self) -> float | None:
        """Forecast minus measured, as a fraction of the measured loss."""
        return None if self.observed is None else self.predicted / self.observed - 1

    @property
    def is_inside(self) -> bool | None:
        """Whether the measured loss lies in the interval."""
        return None if self.observed is None else self.low <= self.observed <= self.high

    @property
    def half_width(self) -> float:
        """The interval's wider side, as a fraction of the forecast."""
        return max(self.high - self.predicted, self.predicted - self.low) / self.predicted


@dataclass(frozen=True)
class Curve:
    """Training loss of one trunk or one cooldown branch."""

    name: str
    num_params: float
    num_tokens: Floats
    """[logged], tokens seen since the trunk's start."""
    loss: Floats
    """[logged], nats per token on training batches."""
    is_branch: bool


def cost_model(points: Points, targets: Sequence[ForecastRun] = ()) -> Cost:
    """Returns training FLOPs per token as a function of size, read off the counted runs.

    Counted cost is not 6 N at small sizes: attention and embeddings add parts that grow as lower powers of N. These
    are fitted to the runs without negative parts; where they miss a run by over 3 % (a ladder that changes shape on
    the way) the cost is interpolated between sizes instead, linearly in logarithms.
    """
    sizes = np.concatenate([points.num_params, [t.num_params for t in targets]])
    per_token = np.concatenate([points.flops / points.num_tokens, [t.flops / t.num_tokens for t in targets]])
    distinct, which, members = np.unique(sizes, return_inverse=True, return_counts=True)
    costs = np.exp(np.bincount(which.ravel(), np.log(per_token)) / members)
    powers = np.array([1.0, 2 / 3, 1 / 2, 1 / 3])
    middle = np.exp(np.log(distinct).mean())
    parts, _ = nnls((distinct[:, None] / middle) ** powers / costs[:, None], np.ones(len(distinct)))

    def by_parts(num_params: Floats) -> Floats:
        return ((np.asarray(num_params, dtype=np.float64)[..., None] / middle) ** powers) @ parts

    if np.abs(by_parts(distinct) / costs - 1).max() < 0.03:
        return by_parts
    x, y = np.log(distinct), np.log(costs)

    def between(num_params: Floats) -> Floats:
        u = np.log(np.asarray(num_params, dtype=np.float64))
        below = y[0] + (u - x[0]) * (y[1] - y[0]) / (x[1] - x[0])
        above = y[-1] + (u - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2])
        return np.exp(np.where(u < x[0], below, np.where(u > x[-1], above, np.interp(u, x, y))))

    return between


def frontier(predict: Predict, cost: Cost, flops: Floats, sizes: tuple[float, float]) -> tuple[Floats, Floats]:
    """Returns the compute-optimal sizes and token counts [budgets] under the counted cost for FLOPs [budgets], of sizes
    between the smallest and the largest searched; a budget whose optimum is at an end of the search gives that end."""
    grid = np.geomspace(*sizes, 600)
    tokens = np.asarray(flops)[:, None] / cost(grid)[None, :]
    loss = predict(np.broadcast_to(grid, tokens.shape), tokens)
    best = loss.argmin(axis=1)
    inner = np.clip(best, 1, len(grid) - 2)
    rows = np.arange(len(best))
    left, middle, right = loss[rows, inner - 1], loss[rows, inner], loss[rows, inner + 1]
    bend = left - 2 * middle + right
    # One parabola step in log size takes the grid's steps out of the curve.
    shift = np.where((best == inner) & (bend > 0), 0.5 * (left - right) / np.where(bend > 0, bend, 1.0), 0.0)
    step = np.log(grid[1] / grid[0])
    best_size = grid[best] * np.exp(step * shift)
    return best_size, np.asarray(flops) / cost(best_size)


def log_residuals(points: Points, predict: Predict) -> Floats:
    """Returns log(measured / law) of each run, [runs]."""
    return np.log(points.loss) - np.log(predict(points.num_params, points.num_tokens))


def loss_at_budget(points: Points, predict: Predict, cost: Cost, size: float, flops: float) -> float | None:
    """Returns the loss of one size at a budget, read between its measured runs; None outside them.

    The law carries the curvature: its log residual, averaged over seeds, is interpolated in log tokens.
    """
    mine = points.rows(np.flatnonzero(points.num_params == size))
    tokens = flops / float(cost(np.array([size]))[0])
    distinct, which, members = np.unique(mine.num_tokens, return_inverse=True, return_counts=True)
    if not distinct.size or not distinct[0] * 0.99 <= tokens <= distinct[-1] * 1.01:
        return None
    means = np.bincount(which.ravel(), log_residuals(mine, predict)) / members
    shift = np.interp(np.log(tokens), np.log(distinct), means)
    return float(predict(np.array([size]), np.array([tokens]))[0] * np.exp(shift))


def smooth(curve: Curve, bins: int = 60) -> tuple[Floats, Floats]:
    """Returns a curve averaged over bins of equal width in log tokens: (num_tokens, loss), at most `bins` long."""
    keep = (curve.num_tokens > 0) & np.isfinite(curve.loss)
    tokens, loss = curve.num_tokens[keep], curve.loss[keep]
    if tokens.size <= bins:
        return tokens, loss
    edges = np.geomspace(tokens[0], tokens[-1] * 1.0001, bins + 1)
    which = np.digitize(tokens, edges)
    filled = np.unique(which)
    return (
        np.array([np.exp(np.log(tokens[which == b]).mean()) for b in filled]),
        np.array([loss[which == b].mean() for b in filled]),
    )
