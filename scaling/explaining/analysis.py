"""All that is said about one table: the fits, which form predicts larger runs, what each factor does, other methods."""

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kleiber.scaling.explaining.approaches import Approach, approaches_json, approaches_report, compare_approaches
from kleiber.scaling.explaining.factors import Factors, describe_factors
from kleiber.scaling.explaining.select import Selection, rolling_origin
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.report import comparison_report
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import form_weights
from kleiber.scaling.forecasting.mixture import mixture_weights
from kleiber.scaling.forecasting.rolling import Origin, Protection, protect, protection_json, roll_origin
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import RunTable
from kleiber.scaling.table.warned import TableWarning

FORMS = ("chinchilla", "generalised_mean", "saturating", "product", "kaplan")
"""Fitted when no law is asked for: which is right decides a forecast, and a table can hardly tell."""
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
    approaches: tuple[tuple[float, list[Approach]] | str, ...]
    """One a fit: the budget in FLOPs, and what each approach advises for it."""

    is_default: bool
    """Whether no law was asked for, so that the first is told of in full and the others are its rivals."""

    def to_json(self, noted: Sequence[str] = ()) -> dict[str, Any]:
        """Returns the first fit with all that is said about it, rivals beside it; of laws asked for, a list `fits`.

        Args:
          noted: warnings that came on the way.
        """
        parts = zip(self.fits, self.factors, self.approaches, strict=True)
        found = [
            {
                **fit.to_json(),
                "warnings": list(noted),
                "factors": {"withheld": factors} if isinstance(factors, str) else factors.to_json(),
                "approaches": {"withheld": advice}
                if isinstance(advice, str)
                else approaches_json(advice[1], advice[0]),
            }
            for fit, factors, advice in parts
        ]
        about = {
            "comparison": [
                {"law": fit.law, "aicc": fit.aicc, "weight": weight}
                for fit, weight in zip(self.fits, self.weights, strict=True)
            ],
            "cross_validation": {"withheld": self.selection}
            if isinstance(self.selection, str)
            else self.selection.to_json(),
            **protection_json(self.fits, self.protection),
        }
        if len(found) > 1 and not self.is_default:
            return {"fits": found, **about}
        return {**found[0], "rivals": found[1:], **about}

    def report(self) -> str:
        """Returns the fits, how they compare, and what the best of them says about factors, for people."""
        told = {0, self.best} if self.is_default else range(len(self.fits))
        parts = [self.fits[index].report() for index in sorted(told)]
        if len(self.fits) > 1:
            parts.append(comparison_report(self.fits, self.weights, mixture_weights(self.fits).tolist()))
        parts.append(
            f"rolling origin in compute: not possible, {self.selection}"
            if isinstance(self.selection, str)
            else self.selection.report()
        )
        if self.protection:
            parts.append(f"forecasts of the table's own dearer runs\n{self.protection.report()}")
        best = self.best
        for found in (self.factors[best], self.approaches[best]):
            if isinstance(found, Factors):
                parts.append(found.report())
            elif not isinstance(found, str):
                parts.append(approaches_report(found[1], found[0]))
        return "\n\n".join(parts)

    @property
    def best(self) -> int:
        """Index of the fit that predicts larger runs best, or failing that has the least AICc."""
        if isinstance(self.selection, str):
            return int(np.argmin([fit.aicc for fit in self.fits]))
        return [fit.law for fit in self.fits].index(self.selection.best)


def analyse(
    table: RunTable,
    laws: Sequence[str] = (),
    *,
    cluster: str | None = None,
    objective: str = "gaussian",
    delta: float | None = None,
    fixed: Mapping[str, float] | None = None,
    starts: int = 16,
    in_depth: bool = True,
    is_protected: bool = True,
) -> Analysis:
    """Returns each law fitted to a table, and what follows.

    Args:
      table, cluster, objective, delta, starts: as for `fit_law`.
      laws: ids of registered laws; without any FORMS, of which those after the first may fail.
      fixed: constants held at a value in the laws that have them; with one law, all must be its own.
      in_depth: whether more is found than the fits.
      is_protected: whether the table's own forecasts widen the intervals of forecasts.

    Raises:
      TableError, ValueError, FitFailedError: as `fit_law`.
    """
    names, fixed = list(dict.fromkeys(laws or FORMS)), dict(fixed or {})
    held = {name: fixed if len(names) == 1 else _own(name, fixed, names) for name in names}
    common: dict[str, Any] = {"cluster": cluster, "objective": objective, "delta": delta, "starts": starts}
    if laws:
        fits = tuple(fit_law(table, name, fixed=held[name], **common) for name in names)
    else:
        first = fit_law(table, names[0], fixed=held[names[0]], **common)
        fits = (first, *_rivals(table, {name: held[name] for name in names[1:]}, common))
    weights = tuple(form_weights(fits))
    origins = roll_origin(fits) if in_depth or is_protected else []
    told = range(len(fits)) if laws else range(1)
    left_out = "not asked for"
    return Analysis(
        fits,
        weights,
        _selection(fits, origins) if in_depth else left_out,
        protect(fits, origins) if is_protected else None,
        tuple(describe_factors(fit) if in_depth and i in told else left_out for i, fit in enumerate(fits)),
        tuple(_approaches(fit) if in_depth and i in told else left_out for i, fit in enumerate(fits)),
        not laws,
    )


def _rivals(table: RunTable, held: Mapping[str, Mapping[str, float]], options: Mapping[str, Any]) -> list[FitResult]:
    """Returns the laws that the table can carry; what there is to warn of was said of the first law."""
    fits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        for name, fixed in held.items():
            with contextlib.suppress(ValueError):
                fits.append(fit_law(table, name, fixed=fixed, **options))
    return fits


def _own(law: str, fixed: Mapping[str, float], laws: Sequence[str]) -> dict[str, float]:
    """Returns the fixed constants that this law has.

    Raises:
      ValueError: for a constant that none of the laws has.
    """
    known = {name for each in laws for name in get_law(each).names}
    unknown = [name for name in fixed if name not in known]
    if unknown:
        raise ValueError(f"none of {', '.join(laws)} has a constant {unknown[0]!r} to fix.")
    return {name: value for name, value in fixed.items() if name in get_law(law).names}


def _selection(fits: Sequence[FitResult], origins: Sequence[Origin]) -> Selection | str:
    try:
        return rolling_origin(fits, origins)
    except ValueError as reason:
        return str(reason)


def _approaches(fit: FitResult) -> tuple[float, list[Approach]] | str:
    if fit.num_points > MOST_FOR_APPROACHES:
        return f"{fit.num_points} runs are more than the {MOST_FOR_APPROACHES} that are looked through for slices"
    if fit.optimum.get("a") is None:
        return str(fit.optimum.get("withheld"))
    flops = BEYOND * 6 * float(np.max(fit.points["num_params_total"] * fit.points["num_tokens"]))
    try:
        return flops, compare_approaches(fit, flops)
    except ValueError as reason:
        return str(reason)
