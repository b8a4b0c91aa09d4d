"""Does a recipe's past help on runs of other people? Each public table forecast after hearing its sister tables."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.explaining.analysis import FORMS
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import combined_forecasts
from kleiber.scaling.forecasting.rolling import Protection, protect, roll_origin
from kleiber.scaling.forecasting.track_record import TrackRecord
from truth.designs import Check
from truth.tables import CUTS, LEVEL, family_of, public_tables

NEAREST = 3.0
"""Compute over the largest fitted, of the forecasts that are heard and of those that are scored."""
OUTCOMES, SISTERS = 4, 2
"""Heard of each sister, evenly over its compute; and sisters heard at most."""
LEAST = 0.85
WORDS = (
    "Tables of one lab stand for earlier studies of one recipe: the same cut, forecasts at three times the largest "
    "fitted compute and more. A sister can mislead where it differs in kind, as two downstream tasks do (olmo_bpb), "
    "and a past that missed widens. The interval score is the half-widths' sum plus twenty times what lies outside, "
    "of log loss; smaller is better."
)


@dataclass(frozen=True)
class Study:
    """One table fitted at one cut, and the runs far out that it is asked for."""

    name: str
    fits: list[FitResult]
    protection: Protection
    asked: dict[str, np.ndarray]
    loss: np.ndarray
    """Measured [runs]."""

    def errors(self, record: TrackRecord | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns log error, half-width of log loss and standardised error [runs] after hearing a record."""
        protection = record.heard_by(self.protection) if record else self.protection
        said = combined_forecasts(self.fits, self.asked, LEVEL, protection)
        error = np.log(self.loss / said.predicted_loss)
        standardised = (self.loss - said.predicted_loss) / said.standard_error
        return error, np.log(said.high / said.predicted_loss), standardised


def studies(cut: float) -> Iterator[Study]:
    """Yields the tables that have runs far enough out."""
    for name, table in public_tables().items():
        is_fitted = np.arange(len(table)) < int(cut * len(table))
        fitted = table.where(is_fitted)
        asked = table.where(~is_fitted & (table["flops"] >= NEAREST * fitted["flops"].max()))
        if len(asked):
            fits = [fit_law(fitted, law) for law in FORMS]
            columns = {name: asked[name] for name in ("num_params_total", "num_tokens")}
            yield Study(name, fits, protect(fits, roll_origin(fits)), columns, asked["loss"])


def heard(squares: list[np.ndarray]) -> TrackRecord:
    """Returns what the sisters' outcomes tell, squares [runs] of each in order of compute."""
    chosen = [each[np.unique(np.linspace(0, len(each) - 1, OUTCOMES).round().astype(int))] for each in squares]
    return TrackRecord(tuple(np.concatenate(chosen).tolist()))


def past_tables() -> Check:
    """Shows coverage, width and interval score of each family, before and after its tables heard of each other."""
    found: dict[str, list[tuple[np.ndarray, ...]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cut in CUTS:
            by_name = {each.name: each for each in studies(cut)}
            squares = {name: each.errors(None)[2] ** 2 for name, each in by_name.items()}
            for name, own in by_name.items():
                sisters = [other for other in by_name if other != name and family_of(other) == family_of(name)]
                if sisters:
                    record = heard([squares[other] for other in sisters[:SISTERS]])
                    pair = [own.errors(each)[:2] for each in (None, record)]
                    found.setdefault(family_of(name), []).append(tuple(part for each in pair for part in each))
    board: list[tuple[str, ...]] = [
        ("family", "fits", "inside", "after", "half-width", "after", "interval score", "after")
    ]
    means = []
    for family, fits in found.items():
        before, half_before, after, half_after = (np.concatenate(part) for part in zip(*fits, strict=True))
        means.append([*_summary(before, half_before), *_summary(after, half_after)])
        inside, half, score, inside_after, after_half, score_after = means[-1]
        cells = (f"{inside:.2f}", f"{inside_after:.2f}", f"{half:.2%}", f"{after_half:.2%}")
        board.append((family, str(len(fits)), *cells, f"{score:.3f}", f"{score_after:.3f}"))
    inside, half, score, inside_after, after_half, score_after = np.mean(means, axis=0)
    rows = [
        ("inside, mean of families, with no past", f"{inside:.3f}", "shown"),
        ("inside, after hearing sister tables", f"{inside_after:.3f}", f"at least {LEAST}"),
        ("median half-width, before and after", f"{half:.2%}, {after_half:.2%}", "shown"),
        ("interval score, before and after", f"{score:.4f}, {score_after:.4f}", "no worse"),
    ]
    is_held = bool(inside_after >= LEAST and score_after <= score)
    claim = "other people's forecasts are no worse for what their sisters came to"
    return Check("past tables", claim, is_held, rows, {}, board, WORDS)


def _summary(error: np.ndarray, half_width: np.ndarray) -> tuple[float, float, float]:
    """Returns the share inside, the median half-width, and the mean interval score (Gneiting and Raftery 2007)."""
    outside = np.maximum(np.abs(error) - half_width, 0)
    score = 2 * half_width + 2 / (1 - LEVEL) * outside
    return float(np.mean(outside == 0)), float(np.median(half_width)), float(np.mean(score))
