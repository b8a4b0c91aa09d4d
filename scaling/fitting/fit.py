"""Fits a law to a table of runs: many starts, one certificate, intervals that hold when points share a trunk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kleiber.scaling.fitting.estimates import describe, frontier_exponents
from kleiber.scaling.fitting.identifiability import other_optima
from kleiber.scaling.fitting.measure import KINDS, Measure, weights_of
from kleiber.scaling.fitting.noise import Clusters, information, make_clusters, whiten
from kleiber.scaling.fitting.objective import Objective, influence
from kleiber.scaling.fitting.outliers import warn_outliers
from kleiber.scaling.fitting.profile import within_bounds
from kleiber.scaling.fitting.result import FitResult, Starts
from kleiber.scaling.fitting.scaled_law import ScaledLaw, Solution, is_seen, make_scaled_law, solution_at
from kleiber.scaling.fitting.search import search_minima
from kleiber.scaling.fitting.trunk_effect import refine_shared
from kleiber.scaling.fitting.uncertainty import Uncertainty, clustered_uncertainty, independent_uncertainty
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.checks import (
    check_design,
    check_fixed_floor,
    usable_rows,
    warn_below_floor,
    warn_runs_away,
    warn_shared,
)
from kleiber.scaling.table.table import RunTable
from kleiber.scaling.table.warned import TableError

OBJECTIVES = ("gaussian", "huber", "student")


def fit_law(
    table: RunTable,
    law: str | Law | Callable[..., Any],
    *,
    cluster: str | None = None,
    objective: str = "gaussian",
    delta: float | None = None,
    fixed: Mapping[str, float | str] | None = None,
    starts: int = 16,
    residuals: str = "log",
    weights: str | None = None,
    is_rival: bool = False,
) -> FitResult:
    """Returns the law fitted to the losses of a table, with intervals and an identifiability report.

    Args:
      table: runs with columns `loss` and the law's variables; only rows with status done and split fit are used
        where those columns exist.
      law: id of a registered law, a law, or a user's function (own_law/function.py).
      cluster: column whose equal values err together (`trunk_id`): by squares they share one random effect, if it can
        be told from the law; else, and with other objectives, only the intervals take it in.
      objective: "gaussian", "huber" or "student" (4 degrees of freedom), summed over the residuals.
      delta: Huber's turning point, or the scale of Student's t; from the residuals if left out.
      fixed: constants held at a value, in the units of the columns, or tied to the one named.
      starts: how many of the grid's best points are followed to a minimum.
      residuals: "log", "relative", "raw" or "logit": what is compared (fitting/measure.py).
      weights: column of standard errors of the losses; one mapped to `loss_standard_error` is used by itself.
      is_rival: whether another law was fitted to the table before, which told of its outliers.

    Raises:
      TableError: what is wrong with the table.
      ValueError: unknown law, objective or constant.
      FitFailedError: if no start gives a finite minimum.
    """
    law = get_law(law)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r}: choose one of {', '.join(OBJECTIVES)}.")
    if residuals not in KINDS:
        raise ValueError(f"residuals {residuals!r}: choose one of {', '.join(KINDS)}.")
    if weights is None and "loss_standard_error" in table.mapping:
        weights = "loss_standard_error"
    zeros = [each.name for each in law.variables if each.may_be_zero]
    table = usable_rows(table, law.variable_names, zeros, residuals, weights)
    loss, measure = table["loss"], Measure(residuals, is_signed=bool(table["loss"].min() <= 0))
    measure = replace(measure, weights=weights_of(table[weights] if weights else None, loss, measure))
    unit = float(np.abs(loss).mean()) if residuals == "raw" else 1.0
    scaled = make_scaled_law(law, {name: table[name] for name in law.variable_names}, fixed, measure, unit)
    varied = [each.name for each in law.variables if not each.setting and is_seen(scaled, each.name)]
    check_design(table, varied, len(scaled.free))
    check_fixed_floor(table, scaled.fixed.get(law.floor, -np.inf))
    labels = _shared_labels(table, cluster, law.variable_names)
    clusters = None if labels is None else make_clusters(labels)
    kind, minimum, z, certificate = search_minima(scaled, table["loss"], starts, objective, delta)
    ratio = 0.0
    if clusters is not None and objective == "gaussian":
        refined, ratios = refine_shared(scaled, measure.of(loss)[None], z[None], clusters)
        z, ratio = refined[0], float(ratios[0])
        if not ratio:
            warn_runs_away(table.source, str(cluster))
    others = other_optima(scaled, minimum.z[minimum.converged], minimum.cost[minimum.converged])
    fit = _finish(table, scaled, z, kind, clusters, ratio, certificate, others)
    if labels is not None:
        intervals_only = objective == "gaussian" and not ratio
        fit = replace(fit, cluster=cluster, clusters=tuple(labels.tolist()), intervals_only=intervals_only)
    fit = within_bounds(fit)
    if law.floor in scaled.free and not fit.parameters[law.floor].withheld:
        warn_below_floor(table.source, loss, fit.parameters[law.floor].estimate)
    if objective == "gaussian" and not is_rival:
        warn_outliers(table, fit)
    return fit


def _shared_labels(table: RunTable, cluster: str | None, variables: Sequence[str]) -> np.ndarray | None:
    """Returns the values [runs] of a column that says what points have in common; None if no two share one."""
    if cluster is None:
        warn_shared(table, variables)
        return None
    if cluster not in table:
        table[cluster]  # raises, naming the nearest column
    labels = table.label(cluster)
    clusters = make_clusters(labels)
    if clusters.count < 3:
        raise TableError(f"{table.source}: column {cluster!r} has {clusters.count} values; 3 at least are needed.")
    return None if clusters.sizes.max() == 1 else labels


def _finish(
    table: RunTable,
    scaled: ScaledLaw,
    z: np.ndarray,
    kind: Objective,
    clusters: Clusters | None,
    ratio: float,
    certificate: Starts,
    others: list[tuple[float, np.ndarray]],
) -> FitResult:
    measured = scaled.measure.of(table["loss"])
    solution = solution_at(scaled, z, measured)
    residual = solution.residual
    uncertainty = fit_uncertainty(solution, kind, clusters, ratio)
    whitened = residual if clusters is None else whiten(residual[None], clusters, np.array([ratio]))[0]
    log_likelihood, aicc = information(residual, clusters, ratio, int(solution.free.sum()))
    residual = measured - scaled.log_loss(z[None])[0]
    parameters, ident = describe(solution, uncertainty, others)
    return FitResult(
        law=scaled.law.id,
        definition=scaled.law,
        parameters=parameters,
        objective=float(kind.cost(whitened)),
        objective_name=kind.kind,
        delta=None if kind.kind == "gaussian" else float(kind.delta),
        residual_rms=float(np.sqrt(np.mean(residual**2))),
        num_points=len(residual),
        cluster=None,
        identifiability=ident,
        optimum=frontier_exponents(scaled, z, uncertainty, parameters),
        log_likelihood=log_likelihood,
        aicc=aicc,
        starts=certificate,
        other_optima=tuple(
            {"objective": cost, **{name: float(each) for name, each in scaled.reported(point).items()}}
            for cost, point in others
        ),
        residuals=residual,
        points={"loss": table["loss"], **_flops(table), **scaled.columns},
        clusters=None,
        z=z,
        scales=scaled.scales,
        fixed=scaled.fixed,
        uncertainty=uncertainty,
        measure=scaled.measure,
        source=table.source,
        notes=table.notes,
    )


def _flops(table: RunTable) -> dict[str, np.ndarray]:
    """Returns the counted FLOPs of the runs, by which a budget can be turned into tokens, if the table has them."""
    flops = table.columns.get("flops")
    return {"flops": flops} if flops is not None and np.all(np.isfinite(flops) & (flops > 0)) else {}


def fit_uncertainty(solution: Solution, kind: Objective, clusters: Clusters | None, ratio: float) -> Uncertainty:
    """Returns the uncertainty of a fit from its residuals and their derivatives at the optimum."""
    residual, jacobian, free = solution.residual, solution.jacobian, solution.free
    num_free = int(free.sum())
    if clusters is None or not ratio:
        return independent_uncertainty(jacobian, influence(kind, residual, num_free), free, clusters)
    whitened = whiten(residual[None], clusters, np.array([ratio]))[0]
    sigma2 = max(float(whitened @ whitened) / max(len(residual) - num_free, 1), 1e-30)
    columns = solution.scaled.columns
    order = columns.get("num_tokens", np.arange(len(residual)))
    return clustered_uncertainty(jacobian, residual, clusters, sigma2 * np.array([1.0, ratio]), free, order)
