"""Forecasts of other people's runs: each public table fitted on its cheaper rows and asked for every dearer one."""

import csv
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import curve_fit
from scipy.stats import norm, t

from kleiber.scaling.explaining.analysis import FORMS
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import combined_forecasts
from kleiber.scaling.forecasting.mixture import log_gradients
from kleiber.scaling.forecasting.rolling import Origin, protect, roll_origin
from kleiber.scaling.table.table import RunTable, from_columns
from truth.alarms import alone, as_rows, signals_of, stands_on
from truth.chosen import chosen_without, half_widths
from truth.designs import Check

DATA = Path(__file__).parent.parent / "data"
CUTS = (0.5, 0.7, 0.8)
"""Shares of the rows, the cheapest, that are fitted."""
LEVEL = 0.9
DEAREST = 0.1
"""Share of the rows of a table that counts as its dearest budget."""
REACHES = ((1, 2), (2, 5), (5, 20), (20, 1e9))
"""Compute over the largest fitted."""
DISTANCES = ("1-2 times", "2-5 times", "5-20 times", "20 times and more")
DISMISSED = 20.0
"""AICc above the best from which a form had no say in what `equal weights` stands for."""

WORDS = (
    "Which forecasts of the default will miss cannot be told beforehand from these tables: neither one sign nor all of "
    "them together, weighed on the other families, precedes .70 of the misses and leaves .80 of the good fits without "
    "an alarm. The misses of one law with its own interval can be told, by how far it lies from what five forms say "
    "together, and a forecast notes that. The default has used this sign up: its interval is around all five, and "
    "wider the farther they are apart."
)

Rule = Callable[[RunTable, RunTable, list[FitResult]], "Said"]


@dataclass(frozen=True)
class Said:
    """What a rule says of runs, in log loss, float64 [runs] each."""

    log_loss: np.ndarray
    half_width: np.ndarray
    alarms: np.ndarray
    """bool [runs]."""
    signals: np.ndarray
    """[runs, signals], as in `alarms`; of rules without any, none."""
    settings: np.ndarray
    """Half-widths [runs, settings] with other constants, as in `chosen`; likewise."""


@dataclass(frozen=True)
class Scored:
    """One rule on every forecast, arrays [forecasts]."""

    family: np.ndarray
    fit: np.ndarray
    """Which table and cut."""
    ratio: np.ndarray
    """Compute over the largest fitted."""
    is_dearest: np.ndarray
    error: np.ndarray
    """Measured less forecast log loss."""
    half_width: np.ndarray
    alarms: np.ndarray
    signals: np.ndarray
    settings: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """bool [forecasts]."""
        return np.abs(self.error) <= self.half_width

    def over_families(self, values: np.ndarray, summary: Callable[[np.ndarray], np.floating] = np.mean) -> float:
        """Returns the mean over families of a summary of each."""
        return float(np.mean([summary(values[self.family == each]) for each in np.unique(self.family)]))

    @property
    def interval_score(self) -> np.ndarray:
        """Width plus 20 times what lies outside [forecasts], smaller is better (Gneiting and Raftery 2007)."""
        return 2 * self.half_width + 2 / (1 - LEVEL) * np.maximum(np.abs(self.error) - self.half_width, 0)


def public_tables() -> dict[str, RunTable]:
    """Returns the thirteen tables by name, rows in order of compute (column `flops`)."""
    out = {}
    for path in sorted((DATA / "tables").glob("*.csv")):
        rows = list(csv.DictReader(path.open()))
        out[path.stem] = _table({name: [float(row[name]) for row in rows] for name in ("N", "D", "loss", "C")})
    rows = [row for row in csv.DictReader((DATA / "datablations" / "runs.csv").open()) if float(row["epochs"]) <= 1]
    size, tokens, loss = ([float(row[name]) for row in rows] for name in ("params", "tokens", "val_loss"))
    out["datablations"] = _table({"N": size, "D": tokens, "loss": loss, "C": 6 * np.array(size) * np.array(tokens)})
    return out


def _table(columns: dict[str, list[float] | np.ndarray]) -> RunTable:
    order = np.argsort(columns["C"], kind="stable")
    names = {"N": "num_params_total", "D": "num_tokens", "loss": "loss", "C": "flops"}
    return from_columns({names[name]: np.asarray(values)[order] for name, values in columns.items()})


def family_of(name: str) -> str:
    """Returns whose runs a table holds."""
    return "_".join(name.split("_")[:2]) if name.startswith("olmo") else name.split("_")[0]


def kleiber(fitted: RunTable, asked: RunTable, fits: list[FitResult]) -> Said:
    """Returns what the default says."""
    origins, columns = roll_origin(fits), {name: asked[name] for name in ("num_params_total", "num_tokens")}
    return replace(_said(asked, fits, origins), settings=half_widths(fits, origins, columns, LEVEL))


def lone(fitted: RunTable, asked: RunTable, fits: list[FitResult]) -> Said:
    """Returns what `--law chinchilla` says, which is protected too."""
    return _said(asked, fits[:1], roll_origin(fits[:1]))


def unprotected(fitted: RunTable, asked: RunTable, fits: list[FitResult]) -> Said:
    """Returns what `--law chinchilla --protect none` says."""
    return _said(asked, fits[:1], None)


def _said(asked: RunTable, fits: list[FitResult], origins: list[Origin] | None) -> Said:
    columns = {name: asked[name] for name in ("num_params_total", "num_tokens")}
    protection = None if origins is None else protect(fits, origins)
    found = combined_forecasts(fits, columns, LEVEL, protection)
    log_loss = np.log(found.predicted_loss)
    said = _plain(log_loss, np.log(found.high) - log_loss)
    if protection is None or origins is None:
        return said
    alarms = np.array([bool(each) for each in found.alarms])
    return replace(said, alarms=alarms, signals=signals_of(found, columns, fits, protection, origins))


def equal_weights(fitted: RunTable, asked: RunTable, fits: list[FitResult]) -> Said:
    """Returns the plain mean of the forms within 20 of the best AICc, with the variance of their mixture."""
    best = min(fit.aicc for fit in fits)
    mean, variance, degrees = [], [], []
    for fit in (each for each in fits if each.aicc <= best + DISMISSED):
        value, gradient = log_gradients(fit, {name: asked[name] for name in fit.definition.variable_names})
        own, freedom = fit.uncertainty.degrees_of(gradient, 1.0)
        mean.append(value)
        variance.append(own)
        degrees.append(freedom.min())
    total = np.sqrt(np.mean(variance, axis=0) + np.var(mean, axis=0))
    return _plain(np.mean(mean, axis=0), t.ppf(0.5 + LEVEL / 2, min(degrees)) * total)


def bare_curve_fit(fitted: RunTable, asked: RunTable, fits: list[FitResult]) -> Said:
    """Returns the additive law by scipy's `curve_fit` from a common start, with its bare covariance."""
    size, data = np.exp(np.mean(np.log([fitted["num_params_total"], fitted["num_tokens"]]), axis=1))

    def law(x: np.ndarray, e: float, a: float, b: float, alpha: float, beta: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            return e + a * (x[0] / size) ** -alpha + b * (x[1] / data) ** -beta

    x, new = (np.stack([each["num_params_total"], each["num_tokens"]]) for each in (fitted, asked))
    low = float(fitted["loss"].min())
    try:
        found, covariance = curve_fit(
            law, x, fitted["loss"], (0.6 * low, 0.3 * low, 0.3 * low, 0.3, 0.3), maxfev=20_000
        )
    except RuntimeError:
        return last_point(fitted, asked, fits)
    step = 1e-6 * np.maximum(np.abs(found), 1e-3)
    moved = [law(new, *(found + each)) - law(new, *(found - each)) for each in np.diag(step)]
    slope = np.stack(moved) / (2 * step[:, None])
    loss = np.maximum(law(new, *found), 1e-3)
    with np.errstate(all="ignore"):
        deviation = np.sqrt(np.einsum("pn,pq,qn->n", slope, covariance, slope)) / loss
    return _plain(np.log(loss), norm.ppf(0.5 + LEVEL / 2) * np.where(np.isfinite(deviation), deviation, 1.0))


def conformal(fitted: RunTable, asked: RunTable, fits: list[FitResult]) -> Said:
    """Returns the additive law fitted to every other row, plus or minus the quantile of the other rows' log errors."""
    rows = np.arange(len(fitted)) % 2 == 0
    fit = fit_law(fitted.where(rows), "chinchilla") if rows.sum() > 5 else fits[0]
    names = fit.definition.variable_names
    held = fitted.where(~rows)
    error = np.sort(np.abs(np.log(held["loss"]) - log_gradients(fit, {name: held[name] for name in names})[0]))
    rank = min(int(np.ceil((len(error) + 1) * LEVEL)), len(error))
    value = log_gradients(fit, {name: asked[name] for name in names})[0]
    return _plain(value, np.full(len(asked), error[rank - 1]))


def last_point(fitted: RunTable, asked: RunTable, fits: list[FitResult]) -> Said:
    """Returns the loss of the dearest fitted run, plus or minus how far runs were from the one before."""
    loss = np.log(fitted["loss"])
    width = float(np.quantile(np.abs(np.diff(loss)), LEVEL))
    return _plain(np.full(len(asked), loss[-1]), np.full(len(asked), width))


def _plain(log_loss: np.ndarray, half_width: np.ndarray) -> Said:
    return Said(log_loss, half_width, np.zeros(len(log_loss), dtype=bool), *[np.zeros((len(log_loss), 0))] * 2)


RULES: dict[str, Rule] = {
    "kleiber": kleiber,
    "kleiber, chinchilla alone": lone,
    "chinchilla, unprotected": unprotected,
    "five forms, equal weights": equal_weights,
    "scipy curve_fit": bare_curve_fit,
    "split conformal": conformal,
    "last point": last_point,
}


def score(cuts: tuple[float, ...] = CUTS) -> dict[str, Scored]:
    """Returns every rule on every table and cut."""
    rows: dict[str, list[tuple]] = {name: [] for name in RULES}
    for name, table in public_tables().items():
        flops = table["flops"]
        dearest = flops >= np.sort(flops)[-int(np.ceil(DEAREST * len(table)))]
        for cut in cuts:
            is_fitted = np.arange(len(table)) < int(cut * len(table))
            fitted, asked = table.where(is_fitted), table.where(~is_fitted)
            count = len(asked)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fits = [fit_law(fitted, law) for law in FORMS]
                for rule, say in RULES.items():
                    said = say(fitted, asked, fits)
                    about = [family_of(name)] * count, [f"{name} {cut}"] * count, asked["flops"] / fitted["flops"].max()
                    error = np.log(asked["loss"]) - said.log_loss
                    rest = (said.half_width, said.alarms, said.signals, said.settings)
                    rows[rule].append((*about, dearest[~is_fitted], error, *rest))
    return {rule: Scored(*map(np.concatenate, zip(*each, strict=True))) for rule, each in rows.items()}


def tables() -> Check:
    """Checks the default's intervals on the public tables."""
    scored = score()
    ours, before = scored["kleiber"], scored["five forms, equal weights"]
    inside, far = ours.inside, ours.ratio >= 20
    half, was = (float(np.median(each.half_width)) for each in (ours, before))
    error, was_error = (float(np.median(np.abs(each.error))) for each in (ours, before))
    checks = [
        ("inside the 90% interval, over rows", inside.mean(), 0.85, 0.95),
        ("over families", ours.over_families(inside), 0.85, 0.95),
        ("in the dearest budget", inside[ours.is_dearest].mean(), 0.80, 1.0),
        ("at 20 times the compute and more", inside[far].mean(), 0.80, 1.0),
    ]
    rows = [(what, f"{value:.3f}", f"{low} to {high}") for what, value, low, high in checks]
    rows += [
        ("median half-width, over equal weights'", f"{half / was:.2f}", "at most 1.6"),
        ("median error, over equal weights'", f"{error / was_error:.2f}", "at most 1"),
    ]
    rows += _chosen(ours)
    passed = all(low <= round(float(value), 3) <= high for _, value, low, high in checks)
    rows += _alarms(ours) + as_rows(ours.signals, ~ours.inside, ours.family, ours.fit)
    bare = scored["chinchilla, unprotected"]
    rows += alone(np.abs(bare.error - ours.error) / bare.half_width, ~bare.inside, bare.family, bare.fit)
    return Check(
        "tables",
        f"90% intervals hold on {len(np.unique(ours.fit)) // len(CUTS)} tables of other people's runs",
        passed and half <= 1.6 * was and error <= was_error,
        rows,
        words=WORDS,
        board=board(scored),
        shares=by_distance(scored),
    )


def _chosen(ours: Scored) -> list[tuple[str, str, str]]:
    """Returns what intervals would have held with constants chosen without the table, or the family, in question."""
    rows, table = [], np.array([each.rpartition(" ")[0] for each in ours.fit])
    for what, group in (("tables", table), ("families", ours.family)):
        half = chosen_without(group, ours.family, ours.error, ours.settings, LEVEL)
        inside = np.abs(ours.error) <= half
        said = f"{inside.mean():.3f}, over families {ours.over_families(inside):.3f}, half-width {np.median(half):.2%}"
        rows.append((f"inside, constants chosen on the other {what}", said, "shown"))
    return rows


def _alarms(ours: Scored) -> list[tuple[str, str, str]]:
    """Returns how often a miss came with an alarm, and a fit that forecast well carries one."""
    missed = ~ours.inside
    preceded, carrying = stands_on(ours.alarms, missed, ours.fit)
    return [
        ("misses that came with an alarm", f"{preceded:.2f} of {missed.sum()}", "shown"),
        ("fits that forecast well and carry one", f"{carrying:.2f}", "shown"),
    ]


def board(scored: dict[str, Scored]) -> list[tuple[str, ...]]:
    """Returns the scoreboard, a row a rule, with its heading first."""
    families = [str(each) for each in np.unique(scored["kleiber"].family)]
    columns = ("inside", "over families", "dearest", *DISTANCES, "half-width", "interval score", "error", *families)
    lines: list[tuple[str, ...]] = [("90 % intervals", *columns)]
    for rule, each in scored.items():
        inside = each.inside
        shares = [inside.mean(), each.over_families(inside), inside[each.is_dearest].mean(), *by_distance(scored)[rule]]
        sizes = [
            float(np.median(each.half_width)),
            each.over_families(each.interval_score),
            float(np.median(np.abs(each.error))),
        ]
        of_families = [inside[each.family == family].mean() for family in families]
        lines.append(
            (rule, *(f"{x:.2f}" for x in shares), *(f"{x:.1%}" for x in sizes), *(f"{x:.2f}" for x in of_families))
        )
    return lines


def by_distance(scored: dict[str, Scored]) -> dict[str, list[float]]:
    """Returns the share inside at each of REACHES, by rule."""
    return {
        rule: [float(each.inside[(each.ratio >= low) & (each.ratio < high)].mean()) for low, high in REACHES]
        for rule, each in scored.items()
    }
