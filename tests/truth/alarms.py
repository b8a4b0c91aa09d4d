"""Whether a miss of an interval can be seen coming: signals that a forecast has, scored against its misses."""

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import APART, Forecasts
from kleiber.scaling.forecasting.mixture import mix
from kleiber.scaling.forecasting.rolling import Origin, Protection, compute_of

SIGNALS = (
    "few runs fitted",
    "few sizes fitted",
    "compute beyond the fitted",
    "forms apart, in half-widths",
    "half-width over the noise of one run",
    "the table's own errors, in standard errors",
    "those of the dearest origin less the first",
    "the largest of the table's own errors, in half-widths",
    "what the dearest fitted runs changed, in half-widths",
    "part of the constants in the variance",
    "AICc of the additive law above the best",
)
ROUNDS = 30
WANTED = (0.7, 0.2)
"""Of an alarm: the least share of misses, and the most of good fits, that it should stand on."""


def signals_of(
    found: Forecasts,
    asked: Mapping[str, np.ndarray],
    fits: list[FitResult],
    protection: Protection,
    origins: list[Origin],
) -> np.ndarray:
    """Returns SIGNALS of each forecast, float64 [runs, signals]; larger should mean a miss.

    Args:
      found: forecasts of the runs with these columns.
      asked: float64 [runs] each.
      fits, protection, origins: that they are of.
    """
    own = [each["standardised_error"] for each in protection.origins] or [0.0]
    largest = max((each["relative_error"] for each in protection.origins), default=0.0)
    half, noise = found.standard_error / found.predicted_loss, np.sqrt(found.mixed.parts["sigma"])
    last = [part for part in origins[-1].fits if part] if origins else list(fits)
    signals = (
        -len(compute_of(fits[0])),
        -len(np.unique(fits[0].points["num_params_total"])),
        found.compute_ratio,
        np.sqrt(found.mixed.between) / half,
        half / noise,
        np.sqrt(np.mean(np.square(own))),
        own[-1] - own[0],
        largest / half,
        np.abs(found.mixed.log_loss - mix(last, asked).log_loss) / half,
        found.mixed.parts["parameter"] / found.mixed.own,
        fits[0].aicc - min(fit.aicc for fit in fits),
    )
    return np.column_stack(np.broadcast_arrays(*signals))


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


def stands_on(fires: np.ndarray, missed: np.ndarray, fit: np.ndarray) -> tuple[float, float]:
    """Returns the share of misses that an alarm [runs] precedes, and of fits that forecast well that carry one."""
    good = [each for each in np.unique(fit) if missed[fit == each].mean() <= 0.1]
    return float(fires[missed].mean()), float(np.mean([fires[fit == each].any() for each in good]))


def as_rows(signals: np.ndarray, missed: np.ndarray, family: np.ndarray, fit: np.ndarray) -> list[tuple[str, str, str]]:
    """Returns what alarms on forecasts could have done, for the page."""
    odds, fires = left_out(signals, missed, family)
    preceded, carrying = stands_on(fires, missed, fit)
    rows = [
        (f"misses told by: {name}", f"AUC {area(signals[:, i], missed):.2f}", "shown") for i, name in enumerate(SIGNALS)
    ]
    together = f"AUC {area(odds, missed):.2f}; an alarm on {preceded:.2f} of misses, on {carrying:.2f} of good fits"
    is_had = preceded >= WANTED[0] and carrying <= WANTED[1]
    wanted = " and ".join(f"{each:.2f}"[1:] for each in WANTED)
    verdict = f"wanted {wanted}: {'to be had' if is_had else 'not to be had'}"
    return [*rows, ("by all of them, on families left out", together, verdict)]


def alone(apart: np.ndarray, missed: np.ndarray, family: np.ndarray, fit: np.ndarray) -> list[tuple[str, str, str]]:
    """Returns, for the page, how the misses of the additive law's own intervals are told by how far it lies from what
    five forms say together, in its half-widths [runs]."""
    fires, trials = np.zeros_like(missed), np.linspace(0.2, 1.2, 21)
    for name in np.unique(family):
        out = family == name
        rest = (apart[~out], missed[~out], fit[~out])
        gains = [np.subtract(*stands_on(rest[0] > each, *rest[1:])) for each in trials]
        fires[out] = apart[out] > trials[int(np.argmax(gains))]
    said = "an alarm on {:.2f} of misses, on {:.2f} of good fits"
    what = "misses of chinchilla, unprotected, told by: its distance from five forms together"
    return [
        (what, f"AUC {area(apart, missed):.2f}", "shown"),
        ("... from two thirds of a half-width on", said.format(*stands_on(apart > APART, missed, fit)), "shown"),
        ("... from where it is best on the other families", said.format(*stands_on(fires, missed, fit)), "shown"),
    ]
