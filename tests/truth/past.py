"""Forecasts at a hundred times the fitted compute that learn from what earlier studies of the same recipe came to."""

import warnings
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.explaining.analysis import analyse
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import combined_forecasts
from kleiber.scaling.forecasting.rolling import Protection
from kleiber.scaling.forecasting.track_record import TrackRecord
from kleiber.scaling.table.table import read_table
from truth.designs import Check

LEVEL, LEAST = 0.9, 0.85
PAST = (0, 1, 2, 4)
"""Earlier studies whose outcomes are heard."""
DRAWS = 8
"""Of earlier studies, for each study."""
SIGMA, TAU = 0.0025, 0.002
"""Of log loss, as the quickstart's runs have them: of one run, and of a trunk with all its branches."""
FLOPS, SHORTEST, LONGEST = 1e12, 4e5, 36e6
"""Largest fitted run, and tokens of the shortest and longest that there are."""
WIDTHS, SHARES, SEEDS = (16, 24, 40, 64, 96), (0.125, 0.25, 0.5, 1.0), 2
NEAR = ((96, 2e7), (256, 3e6), (192, 2e7), (256, 1e7))
"""Width and tokens of the targets of an earlier study: at 30 to 120 times the largest fitted compute."""
FAR = ((128, 2e7), (192, 2e7), (256, 1e7), (96, 6e7))
"""Of those that are scored here: at 55 to 120 times."""
WORDS = (
    "Runs of two-layer byte models, five widths and four lengths with two seeds of each trunk, cost at most 1e12 "
    "FLOPs each; forecasts are at 55 to 120 times that. What an interval knows of runs so far out before it hears "
    "of its recipe comes from public tables. Outcomes of earlier studies tell a recipe of a simple law, whose "
    "intervals they halve, from one that mixes its forms otherwise (q = .8), whose intervals they leave as wide as "
    "need be. Shares above .95 are of intervals that might be narrower still: four outcomes of the prior are never "
    "forgotten."
)


def params(width: float) -> float:
    """Returns the parameters of two layers and a table of bytes."""
    return 24 * width**2 + 256 * width


def loss_of(size: np.ndarray, data: np.ndarray, truth: str) -> np.ndarray:
    """Returns the true loss of runs [runs]."""
    if truth == "q = .8":
        return 0.93 + ((1500 * size**-0.78) ** 1.25 + (230 * data**-0.46) ** 1.25) ** 0.8
    if truth == "saturating":
        size, data = size * (1 + size / 4e6) ** -0.15, data * (1 + data / 6e7) ** -0.15
    return 0.97 + 1206 * size**-0.81 + 329 * data**-0.5


@dataclass(frozen=True)
class Study:
    """One fit, and how its forecasts came out without any past."""

    fits: tuple[FitResult, ...]
    protection: Protection
    squares: tuple[float, ...]
    """Of NEAR, in standard errors said."""
    measured: np.ndarray
    """Losses of FAR."""


def study(truth: str, seed: int) -> Study:
    """Returns one simulated study: its runs, its fit, and what the targets measure."""
    rng = np.random.default_rng(seed)
    rows = [
        (params(width), tokens, f"{width}-{number}")
        for number in range(SEEDS)
        for width in WIDTHS
        for tokens in sorted({min(LONGEST, FLOPS * share / (6 * params(width))) for share in SHARES})
        if tokens >= SHORTEST
    ]
    size, tokens = np.array([row[:2] for row in rows]).T
    names, index = np.unique([row[2] for row in rows], return_inverse=True)
    noise = TAU * rng.normal(size=len(names))[index] + SIGMA * rng.normal(size=len(rows))
    columns = {"num_params_total": size, "num_tokens": tokens, "loss": loss_of(size, tokens, truth) * np.exp(noise)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = analyse(read_table({**columns, "trunk_id": [row[2] for row in rows]}), cluster="trunk_id")
    assert found.protection
    near, far = asked(NEAR), asked(FAR)
    said = combined_forecasts(found.fits, near, LEVEL, found.protection)
    errors = (measured(near, truth, rng) - said.predicted_loss) / said.standard_error
    return Study(found.fits, found.protection, tuple((errors**2).tolist()), measured(far, truth, rng))


def asked(targets: tuple[tuple[float, float], ...]) -> dict[str, np.ndarray]:
    """Returns the columns of targets."""
    width, tokens = np.array(targets).T
    return {"num_params_total": params(width), "num_tokens": tokens}


def measured(columns: dict[str, np.ndarray], truth: str, rng: np.random.Generator) -> np.ndarray:
    """Returns the losses of new runs, each on a trunk of its own."""
    return loss_of(columns["num_params_total"], columns["num_tokens"], truth) * np.exp(
        np.hypot(SIGMA, TAU) * rng.normal(size=len(NEAR))
    )


def inside(of: Study, record: TrackRecord) -> tuple[np.ndarray, np.ndarray]:
    """Returns whether intervals hold, and their half-widths over the forecast, [targets] each."""
    protection = record.heard_by(of.protection) if record.squares else of.protection
    said = combined_forecasts(of.fits, asked(FAR), LEVEL, protection)
    return (said.low <= of.measured) & (of.measured <= said.high), (said.high - said.low) / 2 / said.predicted_loss


def past(count: int = 40) -> Check:
    """Returns what intervals hold and how wide they are, by how many earlier studies were heard."""
    board: list[tuple[str, ...]] = [
        (
            "90 % intervals at 55 to 120 times",
            *(f"{each} studies heard" if each != 1 else "1 study heard" for each in PAST),
        )
    ]
    rows, is_held = [], True
    for truth in ("additive", "saturating", "q = .8"):
        studies = [study(truth, seed) for seed in range(count)]
        rng, cells = np.random.default_rng(0), []
        for heard in PAST:
            shares, widths = [], []
            for own in range(count):
                others = [index for index in range(count) if index != own]
                for _ in range(DRAWS if heard else 1):
                    squares = [studies[index].squares for index in rng.choice(others, heard, replace=False)]
                    held, half = inside(studies[own], TrackRecord(sum(squares, ())))
                    shares.append(held.mean())
                    widths.append(np.median(half))
            by_study = np.reshape(shares, (count, -1)).mean(axis=1)
            error = float(by_study.std(ddof=1) / np.sqrt(count))
            cells.append(f"{by_study.mean():.2f} +- {error:.2f}, half-width {np.median(widths):.1%}")
        is_held &= bool(by_study.mean() >= LEAST - 2 * error)
        board.append((truth, *cells))
        rows.append(
            (f"{truth}: share held with {PAST[-1]} earlier studies", cells[-1], "at least .85, less two errors")
        )
    return Check(
        "past", "intervals a hundred times out learn from a recipe's outcomes", is_held, rows, {}, board, WORDS
    )
