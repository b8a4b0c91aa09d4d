"""Where a run under way will end: how runs of its family that have ended went on from where it is now.

Runs of one recipe have curves of one shape (Qiu et al. 2025, arXiv:2507.02119). What is left to gain at a share of the
way, ln(final loss) - ln(training loss so far), is regressed on ln(tokens) and ln(parameters) over the runs that ended,
those nearest in both first: a line through a neighbourhood, and the trend of all where a run lies beyond them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.estimates import t_quantile

LEAST_SHARE = 0.15
"""Of the way, before which nothing is said: the start of training tells little."""
LEAST_ROWS = 3
"""Of the log, in the half of the way gone that is looked at."""
LEAST_DEGREES = 2
"""Of freedom, of the spread between the trunks that have ended."""


@dataclass(frozen=True)
class Curve:
    """A run's training loss before its cooldown."""

    num_tokens: np.ndarray
    """Trained on at each row of the log, increasing [rows]."""
    loss: np.ndarray
    """Training loss since the row before [rows]."""
    planned_tokens: float
    """With which it ends."""
    num_params: float
    final_loss: float | None = None
    """As measured at its end; None while it runs."""

    @property
    def share(self) -> float:
        """Of its way that it has gone before its cooldown."""
        return float(self.num_tokens[-1] / self.planned_tokens) if len(self.num_tokens) else 0.0

    @property
    def place(self) -> np.ndarray:
        """ln tokens and ln parameters."""
        return np.log([self.planned_tokens, self.num_params])

    def log_loss_at(self, share: float) -> float | None:
        """Returns the mean log training loss over the second half of a share of the way; None of too few rows."""
        end = share * self.planned_tokens * (1 + 1e-9)
        rows = (self.num_tokens > end / 2) & (self.num_tokens <= end)
        return float(np.log(self.loss[rows]).mean()) if rows.sum() >= LEAST_ROWS else None


@dataclass(frozen=True)
class ExpectedEnd:
    """The loss that a run under way is expected to end with."""

    loss: float
    low: float
    high: float
    level: float
    share: float
    """Of the way on which this rests."""


def expected_end(
    running: Curve,
    ended: Sequence[Sequence[Curve]],
    forecast: tuple[float, float] | None = None,
    level: float = 0.9,
) -> ExpectedEnd | None:
    """Returns where a run will end, with the interval of a new run; None while too little is known.

    Args:
      running: the run, as far as it has come.
      ended: runs of its family by trunk; those of one trunk err together.
      forecast: log loss and its standard error as a law has it, taken in by its precision.
      level: probability of the interval.
    """
    share = running.share
    now = running.log_loss_at(share) if share >= LEAST_SHARE else None
    pairs = [
        (trunk, each, np.log(each.final_loss) - then)
        for trunk, curves in enumerate(ended)
        for each in curves
        if each.final_loss and (then := each.log_loss_at(share)) is not None
    ]
    num_trunks = len({trunk for trunk, _, _ in pairs})
    if now is None or not pairs:
        return None
    gains = np.array([gain for _, _, gain in pairs])
    off = np.array([each.place for _, each, _ in pairs]) - running.place  # [runs, 2]
    varies = np.ptp(off, axis=0) > 1e-9
    if num_trunks - 1 - varies.sum() < LEAST_DEGREES or np.abs(off[:, ~varies]).max(initial=0) > 1e-9:
        return None  # what does not vary says nothing of a run that is elsewhere
    known = np.column_stack([np.ones(len(gains)), off[:, varies]])
    weight = 1 / (1 + np.sum(off**2, axis=1)) ** 2
    root = np.sqrt(weight)
    solve = np.linalg.pinv(known * root[:, None]) * root  # [columns, runs]: gains to the plane through them
    slope, taken = solve @ gains, solve[0]
    # Errors are taken as one for all runs of a trunk; left then is sum(weight * residual^2) = variance * trace(left).
    trunks = np.array([trunk for trunk, _, _ in pairs])
    alike = (trunks[:, None] == trunks).astype(float)
    residual = np.eye(len(gains)) - known @ solve
    left = residual.T @ (weight[:, None] * residual) @ alike
    degrees = float(np.trace(left) ** 2 / np.trace(left @ left))  # Satterthwaite
    spread = np.sum(weight * (gains - known @ slope) ** 2) / np.trace(left)
    variance = float(spread * (1 + taken @ alike @ taken))
    middle = now + float(slope[0])
    if forecast is not None and forecast[1] > 0 and variance > 0:
        precision = 1 / variance + 1 / forecast[1] ** 2
        middle = (middle / variance + forecast[0] / forecast[1] ** 2) / precision
        variance = 1 / precision
    half = float(t_quantile(degrees, 0.5 + level / 2)) * variance**0.5
    low, loss, high = np.exp([middle - half, middle, middle + half]).tolist()
    return ExpectedEnd(loss, low, high, level, share)
