"""Fits a law to a table of runs: many starts, one certificate, intervals that hold when points share a trunk."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kleiber.scaling.fitting.estimates import describe, frontier_exponents
from kleiber.scaling.fitting.identifiability import other_optima
from kleiber.scaling.fitting.noise import (
    Clusters,
    Uncertainty,
    clustered_uncertainty,
    independent_uncertainty,
    likelihood,
    make_clusters,
    whiten,
)
from kleiber.scaling.fitting.objective import Objective, variance_inflation
from kleiber.scaling.fitting.result import FitResult, Noise, Starts
from kleiber.scaling.fitting.scaled_law import Model, make_model
from kleiber.scaling.fitting.search import search
from kleiber.scaling.fitting.trunk_effect import refine_shared
from kleiber.scaling.law import Law
from kleiber.scaling.laws import as_law
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
    law = as_law(law)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r}: choose one of {', '.join(OBJECTIVES)}.")
    if cluster and objective != "gaussian":
        raise ValueError(f"a random effect per {cluster} needs the gaussian objective, not {objective}.")
    table = usable_rows(table, law.variable_names, [each.name for each in law.variables if each.may_be_zero])
    model = make_model(law, {name: table[name] for name in law.variable_names}, fixed)
    check_design(table, [each.name for each in law.variables if not each.setting], len(model.free))
    check_fixed_floor(table, model.fixed.get(law.floor, -np.inf))
    shared = _shared(table, cluster)
    kind, minimum, z, certificate = search(model, table["loss"], starts, objective, delta)
    ratio = 0.0
    if shared is not None:
        refined, ratios = refine_shared(model, np.log(table["loss"])[None], z[None], shared.clusters)
        z, ratio = refined[0], float(ratios[0])
    others = other_optima(model, minimum.z[minimum.converged], minimum.cost[minimum.converged])
    fit = _finish(table, model, z, kind, shared, ratio, certificate, others)
    if law.floor in model.free and not fit.parameters[law.floor].withheld:
        warn_below_floor(table.source, table["loss"], fit.parameters[law.floor].estimate)
    return fit


@dataclass(frozen=True)
class _Shared:
    """What points have in common: the column that says so, its value for each point, and the groups."""

    column: str
    labels: tuple[str, ...]
    clusters: Clusters


def _shared(table: RunTable, cluster: str | None) -> _Shared | None:
    """Returns the groups of a column; None without one, or when no two points share a value."""
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
    return None if clusters.sizes.max() == 1 else _Shared(cluster, tuple(labels.tolist()), clusters)


def _finish(
    table: RunTable,
    model: Model,
    z: np.ndarray,
    kind: Objective,
    shared: _Shared | None,
    ratio: float,
    certificate: Starts,
    others: list[tuple[float, np.ndarray]],
) -> FitResult:
    clusters = shared.clusters if shared else None
    predicted, jacobian = (each[0] for each in model.log_loss_and_jacobian(z[None]))
    residual = np.log(table["loss"]) - predicted
    low, high = model.bounds
    free = (z > low) & (z < high)
    uncertainty = fit_uncertainty(residual, jacobian, kind, clusters, ratio, free)
    whitened = residual if clusters is None else whiten(residual[None], clusters, np.array([ratio]))[0]
    log_likelihood, _ = likelihood(residual, clusters, ratio)
    count, num_noise = len(residual), 1 + (clusters is not None)
    num_constants = int(free.sum()) + num_noise
    aicc = -2 * log_likelihood + 2 * num_constants
    aicc += 2 * num_constants * (num_constants + 1) / max(count - num_constants - 1, 1e-9)
    parameters, ident = describe(model, z, residual, jacobian, uncertainty, free, others)
    variances = uncertainty.variances
    return FitResult(
        law=model.law.id,
        definition=model.law,
        parameters=parameters,
        objective=float(kind.cost(whitened)),
        objective_name=kind.kind,
        delta=None if kind.kind == "gaussian" else float(kind.delta),
        residual_rms=float(np.sqrt(np.mean(residual**2))),
        num_points=count,
        noise=Noise(
            float(np.sqrt(variances[0])),
            float(np.sqrt(variances[1])) if len(variances) > 1 else 0.0,
            uncertainty.degrees(np.zeros(len(z)), 1.0)[1],
            shared.column if shared else None,
            shared.clusters.count if shared else count,
        ),
        identifiability=ident,
        optimum=frontier_exponents(model, z, uncertainty, parameters),
        log_likelihood=log_likelihood,
        aicc=aicc,
        starts=certificate,
        other_optima=tuple(
            {"objective": cost, **{name: float(each) for name, each in model.reported(point).items()}}
            for cost, point in others
        ),
        residuals=residual,
        points={"loss": table["loss"], **_flops(table), **model.columns},
        clusters=shared.labels if shared else None,
        z=z,
        scales=model.scales,
        fixed=model.fixed,
        uncertainty=uncertainty,
        source=table.source,
        notes=table.notes,
    )


def _flops(table: RunTable) -> dict[str, np.ndarray]:
    """Returns the counted FLOPs of the runs, by which a budget can be turned into tokens, if the table has them."""
    flops = table.columns.get("flops")
    return {"flops": flops} if flops is not None and np.all(np.isfinite(flops) & (flops > 0)) else {}


def fit_uncertainty(
    residual: np.ndarray,
    jacobian: np.ndarray,
    kind: Objective,
    clusters: Clusters | None,
    ratio: float,
    free: np.ndarray,
) -> Uncertainty:
    """Returns the uncertainty of a fit from its residuals [runs] and their derivatives [runs, P] at the optimum."""
    if clusters is None:
        sigma, inflation = variance_inflation(kind, residual, int(free.sum()))
        return independent_uncertainty(jacobian, max(sigma, 1e-15), inflation, free)
    whitened = whiten(residual[None], clusters, np.array([ratio]))[0]
    sigma2 = max(float(whitened @ whitened) / max(len(residual) - int(free.sum()), 1), 1e-30)
    return clustered_uncertainty(jacobian, clusters, sigma2, ratio * sigma2, free)
