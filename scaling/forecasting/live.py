"""Where a run under way will end: how runs of its family that have ended went on from where it is now.

Runs of one recipe have curves of one shape (Qiu et al. 2025, arXiv:2507.02119). What is left to gain at a share of the
way, ln(final loss) - ln(training loss so far), is regressed on ln(tokens) and ln(parameters) over the runs that ended.
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
"""Of freedom, of the spread between the runs that have ended."""


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
    running: Curve, ended: Sequence[Curve], forecast: tuple[float, float] | None = None, level: float = 0.9
) -> ExpectedEnd | None:
    """Returns where a run will end, with the interval of a new run; None while too little is known.

    Args:
      running: the run, as far as it has come.
      ended: runs of its family, each a trunk of its own.
      forecast: log loss and its standard error as a law has it, taken in by its precision.
      level: probability of the interval.
    """
    share = running.share
    now = running.log_loss_at(share) if share >= LEAST_SHARE else None
    pairs = [(each, then) for each in ended if each.final_loss and (then := each.log_loss_at(share)) is not None]
    if now is None or len(pairs) <= LEAST_DEGREES:
        return None
    gains = np.array([np.log(float(each.final_loss or 0)) - then for each, then in pairs])
    known, own = _features([each for each, _ in pairs]), _features([running])[0]
    for column in range(known.shape[1] - 1, 0, -1):  # what does not vary says nothing of a run that is elsewhere
        if np.ptp(known[:, column]) < 1e-9 or len(pairs) - known.shape[1] < LEAST_DEGREES:
            if abs(own[column] - known[:, column].mean()) > np.ptp(known[:, column]) / 2 + 1e-9:
                return None
            known, own = np.delete(known, column, axis=1), np.delete(own, column)
    inverse = np.linalg.pinv(known)
    slope, degrees = inverse @ gains, len(pairs) - np.linalg.matrix_rank(known)
    spread = float(np.sum((gains - known @ slope) ** 2) / degrees)
    variance = spread * float(1 + np.sum((own @ inverse) ** 2))
    middle = now + float(own @ slope)
    if forecast is not None and forecast[1] > 0 and variance > 0:
        precision = 1 / variance + 1 / forecast[1] ** 2
        middle = (middle / variance + forecast[0] / forecast[1] ** 2) / precision
        variance = 1 / precision
    half = float(t_quantile(np.array(float(degrees)), 0.5 + level / 2)) * variance**0.5
    low, loss, high = np.exp([middle - half, middle, middle + half]).tolist()
    return ExpectedEnd(loss, low, high, level, share)


def _features(curves: Sequence[Curve]) -> np.ndarray:
    """Returns [curves, 3]: one, ln tokens and ln parameters."""
    return np.array([[1.0, np.log(each.planned_tokens), np.log(each.num_params)] for each in curves])
