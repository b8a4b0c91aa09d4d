"""All that is said about one table: the fits, which form predicts larger runs, what each factor does, other methods."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kleiber.scaling.explaining.approaches import Approaches, compare_approaches
from kleiber.scaling.explaining.factors import Factors, describe_factors
from kleiber.scaling.explaining.select import Selection, rolling_origin
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import form_weights
from kleiber.scaling.forecasting.mixture import excess_aicc, mixture_weights
from kleiber.scaling.forecasting.rolling import Origin, Protection, protect, protection_json, roll_origin
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import RunTable
from kleiber.scaling.table.warned import TableWarning

FORMS = ("chinchilla", "generalised_mean", "saturating", "product", "kaplan")
"""Fitted when no law is asked for: which is right decides a forecast, and a table can hardly tell."""
LEFT_OUT = "not asked for"
BEYOND = 10.0
"""The three approaches advise for this many times the compute of the largest run."""
MOST_FOR_APPROACHES = 20_000
"""Runs; the search for slices of equal compute takes minutes beyond."""


@dataclass(frozen=True)
class Analysis:
    """What `analyse` returns; a text instead of a finding says why there is none."""

    fits: tuple[FitResult, ...]
    weights: tuple[float, ...]
    """Akaike weight of each fit."""
    selection: Selection | str
    protection: Protection | None
    """What the table's own forecasts say of intervals; None where it was asked off."""
    factors: tuple[Factors | str, ...]
    """One a fit."""
    approaches: tuple[Approaches | str, ...]
    """One a fit."""
    is_default: bool
    """Whether no law was asked for, so that the first is told of in full and the others are its rivals."""

    def to_json(self, noted: Sequence[str] = ()) -> dict[str, Any]:
        """Returns the first fit with all that is said about it, rivals beside it, and the warnings noted on the way; of
        laws asked for, a list `fits`."""
        parts = zip(self.fits, self.factors, self.approaches, strict=True)
        found = [
            {**fit.to_json(), "warnings": list(noted), "factors": _json(factors), "approaches": _json(advice)}
            for fit, factors, advice in parts
        ]
        about = {
            "comparison": [
                {"law": fit.law, "aicc": fit.aicc, "weight": weight}
                for fit, weight in zip(self.fits, self.weights, strict=True)
            ],
            "cross_validation": _json(self.selection),
            **protection_json(self.fits, self.protection),
        }
        if len(found) > 1 and not self.is_default:
            return {"fits": found, **about}
        return {**found[0], "rivals": found[1:], **about}

    def report(self) -> str:
        """Returns the fits, how they compare, and what the best of them says about factors, for people."""
        parts = [fit.report() for fit in self.told]
        if len(self.fits) > 1:
            parts.append(_comparison(self.fits, self.weights))
        if not isinstance(self.selection, str):
            parts.append(self.selection.report())
        elif self.selection != LEFT_OUT:
            parts.append(f"rolling origin in compute: not possible, {self.selection}")
        if self.protection:
            parts.append(f"forecasts of the table's own dearer runs\n{self.protection.report()}")
        best = self.best
        for found in (self.factors[best], self.approaches[best]):
            if not isinstance(found, str):
                parts.append(found.report())
        return "\n\n".join(parts)

    @property
    def told(self) -> tuple[FitResult, ...]:
        """The fits to tell of in full: those of laws asked for, else the first, and the best if it is another."""
        return tuple(self.fits[i] for i in sorted({0, self.best})) if self.is_default else self.fits

    @property
    def best(self) -> int:
        """Index of the fit that predicts larger runs best, or failing that has the least AICc."""
        if isinstance(self.selection, str):
            return int(np.argmin(excess_aicc(self.fits)))
        return [fit.law for fit in self.fits].index(self.selection.best)


def _json(found: Selection | Factors | Approaches | str) -> dict[str, Any]:
    return {"withheld": found} if isinstance(found, str) else found.to_json()


def analyse(
    table: RunTable,
    laws: Sequence[str | Law | Callable[..., Any]] = (),
    *,
    cluster: str | None = None,
    objective: str = "gaussian",
    delta: float | None = None,
    fixed: Mapping[str, float | str] | None = None,
    starts: int = 16,
    in_depth: bool = True,
    residuals: str = "log",
    weights: str | None = None,
    is_protected: bool = True,
) -> Analysis:
    """Returns each law fitted to a table, and what follows.

    Args:
      table, cluster, objective, delta, starts, residuals, weights: as for `fit_law`.
      laws: as for `fit_law`, each; without any FORMS, of which those after the first may fail.
      fixed: constants held at a value in the laws that have them; with one law, all must be its own.
      in_depth: whether more is found than the fits.
      is_protected: whether the table's own forecasts widen the intervals of forecasts.

    Raises:
      TableError, ValueError, FitFailedError: as `fit_law`.
    """
    chosen, fixed = list({law.id: law for law in map(get_law, laws or FORMS)}.values()), dict(fixed or {})
    held = [fixed] if len(chosen) == 1 else [_own(law, fixed, chosen) for law in chosen]
    common: dict[str, Any] = {"cluster": cluster, "objective": objective, "delta": delta, "starts": starts}
    common |= {"residuals": residuals, "weights": weights}
    first = 1 if not laws else len(chosen)
    fits = tuple(fit_law(table, law, fixed=own, **common) for law, own in zip(chosen[:first], held, strict=False))
    fits += _rivals(table, zip(chosen[first:], held[first:], strict=True), common)
    origins = roll_origin(fits) if in_depth or is_protected else []
    told = fits[:first] if in_depth else ()
    left_out = (LEFT_OUT,) * (len(fits) - len(told))
    return Analysis(
        fits,
        tuple(form_weights(fits)),
        _selection(fits, origins) if in_depth else LEFT_OUT,
        protect(fits, origins) if is_protected else None,
        (*map(describe_factors, told), *left_out),
        (*map(_approaches, told), *left_out),
        not laws,
    )


def _rivals(
    table: RunTable, held: Iterable[tuple[Law, Mapping[str, float | str]]], options: Mapping[str, Any]
) -> tuple[FitResult, ...]:
    """Returns the laws that the table can carry; what there is to warn of was said of the first law."""
    fits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        for law, fixed in held:
            with contextlib.suppress(ValueError):
                fits.append(fit_law(table, law, fixed=fixed, is_rival=True, **options))
    return tuple(fits)


def _comparison(fits: Sequence[FitResult], weights: Sequence[float]) -> str:
    """Returns several fits of the same runs side by side, best first."""
    excess, shares = excess_aicc(fits).tolist(), mixture_weights(fits).tolist()
    lines = [f"{'law':<18}{'AICc - best':>12}{'weight':>9}{'in forecasts':>14}{'residual rms':>14}{'points':>8}"]
    for fit, more, weight, share in sorted(zip(fits, excess, weights, shares, strict=True), key=lambda row: row[1]):
        row = f"{fit.law:<18}{more:>12.1f}{weight:>9.3f}{share:>14.3f}{fit.residual_rms:>14{fit.measure.size_format}}"
        lines.append(row + f"{fit.num_points:>8}")
    return "\n".join(lines)


def _own(law: Law, fixed: Mapping[str, float | str], laws: Sequence[Law]) -> dict[str, float | str]:
    """Returns the fixed constants that this law has. Raises ValueError for a constant that none of the laws has."""
    known = {name for each in laws for name in each.names}
    unknown = [name for name in fixed if name not in known]
    if unknown:
        raise ValueError(f"none of {', '.join(each.id for each in laws)} has a constant {unknown[0]!r} to fix.")
    return {name: value for name, value in fixed.items() if name in law.names}


def _selection(fits: Sequence[FitResult], origins: Sequence[Origin]) -> Selection | str:
    try:
        return rolling_origin(fits, origins)
    except ValueError as reason:
        return str(reason)


def _approaches(fit: FitResult) -> Approaches | str:
    if fit.num_points > MOST_FOR_APPROACHES:
        return f"{fit.num_points} runs are more than the {MOST_FOR_APPROACHES} that are looked through for slices"
    if fit.optimum.get("a") is None:
        return str(fit.optimum.get("withheld"))
    flops = BEYOND * 6 * float(np.max(fit.points["num_params_total"] * fit.points["num_tokens"]))
    try:
        return compare_approaches(fit, flops)
    except ValueError as reason:
        return str(reason)
