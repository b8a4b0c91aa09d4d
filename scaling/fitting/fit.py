"""Fits a law to a table of runs: many starts, one certificate, intervals that hold when points share a trunk."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kleiber.scaling.fitting.estimates import describe, frontier_exponents
from kleiber.scaling.fitting.identifiability import other_optima
from kleiber.scaling.fitting.noise import (
    Clusters,
    Uncertainty,
    clustered_uncertainty,
    independent_uncertainty,
    information,
    make_clusters,
    whiten,
)
from kleiber.scaling.fitting.objective import Objective, variance_inflation
from kleiber.scaling.fitting.result import FitResult, Starts
from kleiber.scaling.fitting.scaled_law import ScaledLaw, Solution, make_scaled_law, solution_at
from kleiber.scaling.fitting.search import search_minima
from kleiber.scaling.fitting.trunk_effect import refine_shared
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.checks import check_design, check_fixed_floor, usable_rows, warn_below_floor
from kleiber.scaling.table.table import RunTable
from kleiber.scaling.table.warned import SharedTrunkWarning, TableError

OBJECTIVES = ("gaussian", "huber", "student")


def fit_law(
    table: RunTable,
    law: str | Law | Callable[..., Any],
    *,
    cluster: str | None = None,
    objective: str = "gaussian",
    delta: float | None = None,
    fixed: Mapping[str, float] | None = None,
    starts: int = 16,
) -> FitResult:
    """Returns the law fitted to the log losses of a table, with intervals and an identifiability report.

    Args:
      table: runs with columns `loss` and the law's variables; only rows with status done and split fit are used
        where those columns exist.
      law: id of a registered law, a law, or a user's function (own_law/function.py).
      cluster: column whose equal values share one random effect (`trunk_id`); needs squares as the objective.
      objective: "gaussian", "huber" or "student" (4 degrees of freedom), summed over log residuals.
      delta: Huber's turning point, or the scale of Student's t; from the residuals if left out.
      fixed: constants held at a value, in the units of the columns.
      starts: how many of the grid's best points are followed to a minimum.

    Raises:
      TableError: what is wrong with the table.
      ValueError: unknown law, objective or constant.
      FitFailedError: if no start gives a finite minimum.
    """
    law = get_law(law)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r}: choose one of {', '.join(OBJECTIVES)}.")
    if cluster and objective != "gaussian":
        raise ValueError(f"a random effect per {cluster} needs the gaussian objective, not {objective}.")
    table = usable_rows(table, law.variable_names, [each.name for each in law.variables if each.may_be_zero])
    scaled = make_scaled_law(law, {name: table[name] for name in law.variable_names}, fixed)
    check_design(table, [each.name for each in law.variables if not each.setting], len(scaled.free))
    check_fixed_floor(table, scaled.fixed.get(law.floor, -np.inf))
    labels = _shared_labels(table, cluster)
    clusters = None if labels is None else make_clusters(labels)
    kind, minimum, z, certificate = search_minima(scaled, table["loss"], starts, objective, delta)
    ratio = 0.0
    if clusters is not None:
        refined, ratios = refine_shared(scaled, np.log(table["loss"])[None], z[None], clusters)
        z, ratio = refined[0], float(ratios[0])
    others = other_optima(scaled, minimum.z[minimum.converged], minimum.cost[minimum.converged])
    fit = _finish(table, scaled, z, kind, clusters, ratio, certificate, others)
    if labels is not None:
        fit = replace(fit, cluster=cluster, clusters=tuple(labels.tolist()))
    if law.floor in scaled.free and not fit.parameters[law.floor].withheld:
        warn_below_floor(table.source, table["loss"], fit.parameters[law.floor].estimate)
    return fit


def _shared_labels(table: RunTable, cluster: str | None) -> np.ndarray | None:
    """Returns the values [runs] of a column that says what points have in common; None if no two share one."""
    if cluster is None:
        if "trunk_id" in table and len(set(table.label("trunk_id"))) < len(table):
            warnings.warn(
                f"{table.source}: points share trunks (column trunk_id) but are fitted as independent, so intervals "
                "are too short; pass cluster='trunk_id' (--cluster trunk_id).",
                SharedTrunkWarning,
                stacklevel=3,
            )
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
    solution = solution_at(scaled, z, np.log(table["loss"]))
    residual = solution.residual
    uncertainty = fit_uncertainty(solution, kind, clusters, ratio)
    whitened = residual if clusters is None else whiten(residual[None], clusters, np.array([ratio]))[0]
    log_likelihood, aicc = information(residual, clusters, ratio, int(solution.free.sum()))
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
    if clusters is None:
        sigma, inflation = variance_inflation(kind, residual, num_free)
        return independent_uncertainty(jacobian, max(sigma, 1e-15), inflation, free)
    whitened = whiten(residual[None], clusters, np.array([ratio]))[0]
    sigma2 = max(float(whitened @ whitened) / max(len(residual) - num_free, 1), 1e-30)
    return clustered_uncertainty(jacobian, clusters, sigma2, ratio * sigma2, free)
