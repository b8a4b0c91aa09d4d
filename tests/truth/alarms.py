"""Whether a miss of an interval can be seen coming: signals that a forecast has, scored against its misses."""

import numpy as np
from scipy.stats import rankdata

from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import Forecasts
from kleiber.scaling.forecasting.rolling import Protection, compute_of

SIGNALS = (
    "few runs fitted",
    "compute beyond the fitted",
    "forms apart, in half-widths",
    "half-width over the noise of one run",
    "the table's own errors, in standard errors",
    "those of the dearest origin less the first",
)
ROUNDS = 30
WANTED = (0.7, 0.2)
"""Of an alarm: the least share of misses, and the most of good fits, that it should stand on."""


def signals_of(found: Forecasts, fits: list[FitResult], protection: Protection) -> np.ndarray:
    """Returns SIGNALS of each forecast, float64 [runs, signals]; larger should mean a miss."""
    own = [each["standardised_error"] for each in protection.origins] or [0.0]
    half, noise = found.standard_error / found.predicted_loss, np.sqrt(found.mixed.parts["sigma"])
    each = (-len(compute_of(fits[0])), found.compute_ratio, np.sqrt(found.mixed.between) / half, half / noise)
    return np.column_stack(np.broadcast_arrays(*each, np.sqrt(np.mean(np.square(own))), own[-1] - own[0]))


def area(score: np.ndarray, missed: np.ndarray) -> float:
    """Returns how often a miss scores above a hit: 1 for a perfect alarm, .5 for none."""
    count = int(missed.sum())
    return float((rankdata(score)[missed].sum() - count * (count + 1) / 2) / (count * (len(missed) - count)))


def left_out(signals: np.ndarray, missed: np.ndarray, family: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log odds of a miss [runs] by a logistic law of ranked signals, fitted without the run's family, and
    whether an alarm fires [runs] that would have preceded WANTED of the other families' misses."""
    ranked = np.apply_along_axis(rankdata, 0, signals) / len(signals) - 0.5
    design, odds, fires = np.column_stack([np.ones(len(ranked)), ranked]), np.zeros(len(ranked)), missed.copy()
    for name in np.unique(family):
        out = family == name
        z, x = np.zeros(design.shape[1]), design[~out]
        for _ in range(ROUNDS):  # Newton's, with a unit ridge
            p = 1 / (1 + np.exp(-x @ z))
            step = (x.T * (p * (1 - p))) @ x + np.eye(len(z))
            z = z + np.linalg.solve(step, x.T @ (missed[~out] - p) - z)
        odds[out] = design[out] @ z
        fires[out] = odds[out] >= np.quantile((x @ z)[missed[~out]], 1 - WANTED[0])
    return odds, fires


def as_rows(signals: np.ndarray, missed: np.ndarray, family: np.ndarray, fit: np.ndarray) -> list[tuple[str, str, str]]:
    """Returns what alarms on forecasts could have done, for the page."""
    odds, fires = left_out(signals, missed, family)
    good = [each for each in np.unique(fit) if missed[fit == each].mean() <= 0.1]
    preceded, carrying = fires[missed].mean(), np.mean([fires[fit == each].any() for each in good])
    rows = [
        (f"misses told by: {name}", f"AUC {area(signals[:, i], missed):.2f}", "shown") for i, name in enumerate(SIGNALS)
    ]
    together = f"AUC {area(odds, missed):.2f}; an alarm on {preceded:.2f} of misses, on {carrying:.2f} of good fits"
    is_had = preceded >= WANTED[0] and carrying <= WANTED[1]
    wanted = " and ".join(f"{each:.2f}"[1:] for each in WANTED)
    verdict = f"wanted {wanted}: {'to be had' if is_had else 'not to be had'}"
    return [*rows, ("by all of them, on families left out", together, verdict)]
