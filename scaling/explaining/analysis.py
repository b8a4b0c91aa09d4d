"""All that is said about one table: the fits, which form predicts larger runs, what each factor does, other methods."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kleiber.scaling.explaining.approaches import Approaches, compare_approaches
from kleiber.scaling.explaining.factors import Factors, describe_factors
from kleiber.scaling.explaining.select import Selection, rolling_origin
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import form_weights
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import RunTable
from kleiber.scaling.table.warned import TableWarning

LEFT_OUT = "not asked for"
BEYOND = 10.0
"""The three approaches advise for this many times the compute of the largest run."""


@dataclass(frozen=True)
class Analysis:
    """What `analyse` returns; a text instead of a finding says why there is none."""

    fits: tuple[FitResult, ...]
    weights: tuple[float, ...]
    """Akaike weight of each fit."""
    selection: Selection | str
    factors: tuple[Factors | str, ...]
    """One a fit."""
    approaches: tuple[Approaches | str, ...]
    """One a fit."""

    def to_json(self, noted: Sequence[str] = ()) -> dict[str, Any]:
        """Returns the fit with all that is said about it; of several, {"fits", "comparison", "cross_validation"}.

        Args:
          noted: warnings that came on the way.
        """
        parts = zip(self.fits, self.factors, self.approaches, strict=True)
        found = [
            {
                **fit.to_json(),
                "warnings": list(noted),
                "factors": _json(factors),
                "approaches": _json(advice),
            }
            for fit, factors, advice in parts
        ]
        chosen = _json(self.selection)
        if len(found) == 1:
            return {**found[0], "cross_validation": chosen}
        comparison = [
            {"law": fit.law, "aicc": fit.aicc, "weight": weight}
            for fit, weight in zip(self.fits, self.weights, strict=True)
        ]
        return {"fits": found, "comparison": comparison, "cross_validation": chosen}

    def report(self) -> str:
        """Returns the fits, how they compare, and what the best of them says about factors, for people."""
        parts = [fit.report() for fit in self.fits]
        if len(self.fits) > 1:
            parts.append(_comparison(self.fits, self.weights))
        if not isinstance(self.selection, str):
            parts.append(self.selection.report())
        elif self.selection != LEFT_OUT:
            parts.append(f"rolling origin in compute: not possible, {self.selection}")
        best = self.best
        for found in (self.factors[best], self.approaches[best]):
            if not isinstance(found, str):
                parts.append(found.report())
        return "\n\n".join(parts)

    @property
    def best(self) -> int:
        """Index of the fit that predicts larger runs best, or failing that has the least AICc."""
        if isinstance(self.selection, str):
            return int(np.argmin([fit.aicc for fit in self.fits]))
        return [fit.law for fit in self.fits].index(self.selection.best)


def _json(found: Selection | Factors | Approaches | str) -> dict[str, Any]:
    return {"withheld": found} if isinstance(found, str) else found.to_json()


def analyse(
    table: RunTable,
    laws: Sequence[str | Law | Callable[..., Any]],
    *,
    cluster: str | None = None,
    objective: str = "gaussian",
    delta: float | None = None,
    fixed: Mapping[str, float | str] | None = None,
    starts: int = 16,
    in_depth: bool = True,
    residuals: str = "log",
    weights: str | None = None,
) -> Analysis:
    """Returns each law fitted to a table, and what follows.

    Args:
      table, cluster, objective, delta, starts, residuals, weights: as for `fit_law`.
      laws: as for `fit_law`, each.
      fixed: constants held at a value in the laws that have them; with one law, all must be its own.
      in_depth: whether more is found than the fits.

    Raises:
      TableError, ValueError, FitFailedError: as `fit_law`.
    """
    chosen, fixed = list({law.id: law for law in map(get_law, laws)}.values()), dict(fixed or {})
    held = [fixed] if len(chosen) == 1 else [_own(law, fixed, chosen) for law in chosen]
    common: dict[str, Any] = {"cluster": cluster, "objective": objective, "delta": delta}
    how = {**common, "starts": starts, "residuals": residuals, "weights": weights}
    fits = tuple(fit_law(table, law, fixed=own, **how) for law, own in zip(chosen, held, strict=True))
    selection: Selection | str = LEFT_OUT
    if in_depth:
        is_plain = fits[0].measure.kind == "log" and fits[0].measure.weights is None
        reason = "it needs unweighted log residuals"
        selection = _selection(table, chosen, fixed=fixed, **common) if is_plain else reason
    return Analysis(
        fits,
        tuple(form_weights(fits)),
        selection,
        tuple(describe_factors(fit) if in_depth else LEFT_OUT for fit in fits),
        tuple(_approaches(fit) if in_depth else LEFT_OUT for fit in fits),
    )


def _comparison(fits: Sequence[FitResult], weights: Sequence[float]) -> str:
    """Returns several fits of the same runs side by side, best first."""
    best = min(fit.aicc for fit in fits)
    lines = [f"{'law':<18}{'AICc - best':>12}{'weight':>9}{'residual rms':>14}{'points':>8}"]
    for fit, weight in sorted(zip(fits, weights, strict=True), key=lambda pair: pair[0].aicc):
        lines.append(f"{fit.law:<18}{fit.aicc - best:>12.1f}{weight:>9.3f}{fit.residual_rms:>14.3%}{fit.num_points:>8}")
    return "\n".join(lines)


def _own(law: Law, fixed: Mapping[str, float | str], laws: Sequence[Law]) -> dict[str, float | str]:
    """Returns the fixed constants that this law has.

    Raises:
      ValueError: for a constant that none of the laws has.
    """
    known = {name for each in laws for name in each.names}
    unknown = [name for name in fixed if name not in known]
    if unknown:
        raise ValueError(f"none of {', '.join(each.id for each in laws)} has a constant {unknown[0]!r} to fix.")
    return {name: value for name, value in fixed.items() if name in law.names}


def _selection(table: RunTable, laws: Sequence[Law], **options: Any) -> Selection | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TableWarning)
            return rolling_origin(table, laws, **options)
    except ValueError as reason:
        return str(reason)


def _approaches(fit: FitResult) -> Approaches | str:
    if fit.optimum.get("a") is None:
        return str(fit.optimum.get("withheld"))
    flops = BEYOND * 6 * float(np.max(fit.points["num_params_total"] * fit.points["num_tokens"]))
    try:
        return compare_approaches(fit, flops)
    except ValueError as reason:
        return str(reason)
