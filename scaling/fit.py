"""Fits a law to a table of runs: many starts, one certificate, intervals that hold when points share a trunk."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from kleiber.scaling.checks import check_design, usable_rows
from kleiber.scaling.estimates import describe, frontier_exponents
from kleiber.scaling.identifiability import other_optima
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.minimise import Minimum, levenberg_marquardt, newton_polish
from kleiber.scaling.model import Model, make_model
from kleiber.scaling.noise import (
    Clusters,
    Uncertainty,
    clustered_uncertainty,
    estimate_ratio,
    independent_uncertainty,
    likelihood,
    make_clusters,
    whitening,
)
from kleiber.scaling.objective import EFFICIENT_DELTA, Objective, robust_scale, variance_inflation
from kleiber.scaling.result import FitResult, Noise, Starts
from kleiber.scaling.starts import start_points
from kleiber.scaling.table import RunTable, TableError, TableWarning

OBJECTIVES = ("gaussian", "huber", "student")
AGREE = 1e-7
"""Two starts reached the same minimum if their costs differ by less than this share."""

MORE_STARTS = 200
"""Starts followed when fewer than two of the first reach the best minimum, so that nothing vouches for it."""
SAME_VALLEY = 1e-3
"""Reweighted minima whose costs differ by less than this share are polished once."""


RUNAWAY = 1.5
"""Residuals this many times the least-squares ones mean that the random effects took over from the law."""
PROFILE_RATIOS = np.exp(np.linspace(np.log(0.03), np.log(300.0), 17))
"""Trial values of tau^2 / sigma^2 when they did."""


class SharedTrunkWarning(TableWarning):
    """Points that share a trunk are treated as independent, so intervals come out too short."""


class FitFailedError(ValueError):
    """No start led to a finite minimum."""


def fit_law(
    table: RunTable,
    law: str | Law,
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
      law: id of a registered law, or a law.
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
    law = get_law(law) if isinstance(law, str) else law
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r}: choose one of {', '.join(OBJECTIVES)}.")
    if cluster and objective != "gaussian":
        raise ValueError(f"a random effect per {cluster} needs the gaussian objective, not {objective}.")
    table = usable_rows(table, law.variable_names, [each.name for each in law.variables if each.may_be_zero])
    model = make_model(law, {name: table[name] for name in law.variable_names}, fixed)
    check_design(table, law.variable_names, len(model.free))
    clusters, labels = _clusters(table, cluster)
    log_loss = np.log(table["loss"])
    for count in (starts, max(starts, MORE_STARTS)):
        points, tried = start_points(model, table["loss"], count)
        kind, minimum, z = _search(model, log_loss, points, objective, delta)
        agreeing = int((minimum.cost <= minimum.cost.min() * (1 + AGREE) + 1e-22).sum())
        if agreeing > 1:
            break
    failed = int((~minimum.converged | ~np.isfinite(minimum.cost)).sum())
    certificate = Starts(tried, len(points), failed, agreeing)
    ratio = 0.0
    if clusters is not None:
        refined, ratios = refine_shared(model, log_loss[None], z[None], clusters)
        z, ratio = refined[0], float(ratios[0])
    others = other_optima(model, minimum.z[minimum.converged], minimum.cost[minimum.converged])
    return _finish(table, model, z, kind, clusters, labels, cluster, ratio, certificate, others)


def _clusters(table: RunTable, cluster: str | None) -> tuple[Clusters | None, tuple[str, ...] | None]:
    if cluster is None:
        if "trunk_id" in table and len(set(table.label("trunk_id"))) < len(table):
            warnings.warn(
                f"{table.source}: points share trunks (column trunk_id) but are fitted as independent, so intervals "
                "are too short; pass cluster='trunk_id' (--cluster trunk_id).",
                SharedTrunkWarning,
                stacklevel=3,
            )
        return None, None
    if cluster not in table:
        table[cluster]  # raises, naming the nearest column
    labels = table.label(cluster)
    clusters = make_clusters(labels)
    if clusters.count < 3:
        raise TableError(f"{table.source}: column {cluster!r} has {clusters.count} values; 3 at least are needed.")
    if clusters.sizes.max() == 1:
        return None, None
    return clusters, tuple(labels.tolist())


def residual_function(
    model: Model, log_loss: np.ndarray, whiteners: np.ndarray | None = None
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns the residual function of `levenberg_marquardt`: predicted minus measured log loss, whitened.

    Args:
      model: law and columns.
      log_loss: float64 [runs], or [problems, runs] with one set of losses a problem.
      whiteners: float64 [problems, runs, runs] or None for independent errors.
    """

    def residuals(z: np.ndarray, problem: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predicted, jacobian = model.log_loss_and_jacobian(z)
        residual = predicted - (log_loss if log_loss.ndim == 1 else log_loss[problem])
        if whiteners is not None:
            turn = whiteners[problem]
            return np.matmul(turn, residual[..., None])[..., 0], np.matmul(turn, jacobian)
        return residual, jacobian

    return residuals


def _search(
    model: Model, log_loss: np.ndarray, points: np.ndarray, objective: str, delta: float | None
) -> tuple[Objective, Minimum, np.ndarray]:
    """Returns the objective with its scale, the minima of all starts, and the best working point [P]."""
    residuals = residual_function(model, log_loss)
    kind = Objective("gaussian") if objective == "gaussian" or delta is None else Objective(objective, delta)
    minimum = levenberg_marquardt(residuals, points, model.bounds, kind)
    if not np.isfinite(minimum.cost).any():
        raise FitFailedError(f"law {model.law.id}: none of {len(points)} starts reached a finite loss; check units.")
    best = minimum.z[minimum.cost.argmin()]
    if objective == "gaussian":
        return kind, minimum, best
    if delta is None:
        for _ in range(30):
            scale = robust_scale(residuals(best[None], np.zeros(1, int))[0][0], len(best))
            size = max(scale * (EFFICIENT_DELTA if objective == "huber" else 1.0), 1e-12)
            if kind.kind == objective and abs(size / kind.delta - 1) < 1e-6:
                break
            kind = Objective(objective, size)
            minimum = levenberg_marquardt(residuals, np.vstack([minimum.z, best]), model.bounds, kind)
            minimum = (
                replace(minimum, z=minimum.z[:-1], cost=minimum.cost[:-1], converged=minimum.converged[:-1])
                if minimum.cost[-1] >= minimum.cost[:-1].min()
                else minimum
            )
            best = minimum.z[minimum.cost.argmin()]
    return _polish(model, residuals, kind, minimum)


def _polish(
    model: Model, residuals: Callable, kind: Objective, minimum: Minimum
) -> tuple[Objective, Minimum, np.ndarray]:
    """Returns the minima sharpened by second derivatives, so that the certificate compares like with like."""
    z, cost = minimum.z.copy(), minimum.cost.copy()
    order = np.argsort(cost, kind="stable")
    for index in order[cost[order] <= cost.min() * 1.05]:
        same = cost[index] < cost[order[0]] * (1 + SAME_VALLEY) and np.abs(z[index] - z[order[0]]).max() < 0.05
        if same and index != order[0]:
            z[index], cost[index] = z[order[0]], cost[order[0]]
        else:
            z[index], cost[index] = newton_polish(residuals, z[index], model.bounds, kind)
    return kind, Minimum(z, cost, minimum.converged | (cost < minimum.cost), minimum.num_steps), z[cost.argmin()]


def refine_shared(
    model: Model, log_loss: np.ndarray, z: np.ndarray, clusters: Clusters, max_rounds: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the generalised-least-squares points [b, P] and tau^2 / sigma^2 [b], each round improving the other.

    The rounds can run away when the law does not fit: trunks that take up all misfit leave the constants free, which
    makes more misfit for the trunks to take up. Where the residuals end far above the least-squares ones, the ratio is
    searched for on a grid instead, each with its own optimum.

    Args:
      model: law and columns.
      log_loss: float64 [b, runs].
      z: float64 [b, P], the least-squares points.
    """
    refined, ratio = _alternate(model, log_loss, z, np.ones(len(z)), clusters, max_rounds)
    ran_away = _rms(model, log_loss, refined) > RUNAWAY * _rms(model, log_loss, z)
    if ran_away.any():
        rows = np.flatnonzero(ran_away)
        refined[rows], ratio[rows] = _profile_ratio(model, log_loss[rows], z[rows], clusters)
    return refined, ratio


def _rms(model: Model, log_loss: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean((log_loss - model.log_loss_and_jacobian(z)[0]) ** 2, axis=1))


def _alternate(
    model: Model, log_loss: np.ndarray, z: np.ndarray, ratio: np.ndarray, clusters: Clusters, max_rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Alternates between the ratio given the constants and the constants given the ratio until both stay put."""
    z, ratio = z.copy(), ratio.copy()
    low, high = model.bounds
    moving = np.arange(len(z))
    for _ in range(max_rounds):
        predicted, jacobian = model.log_loss_and_jacobian(z[moving])
        at_bound = (z[moving] <= low) | (z[moving] >= high)
        jacobian = np.where(at_bound[:, None, :], 0.0, jacobian)
        new = estimate_ratio(log_loss[moving] - predicted, jacobian, clusters)
        settled = np.abs(np.log(new / ratio[moving])) < 1e-5
        ratio[moving] = new
        moving = moving[~settled]
        if not len(moving):
            break
        residuals = residual_function(model, log_loss[moving], whitening(clusters, ratio[moving]))
        z[moving] = levenberg_marquardt(residuals, z[moving], model.bounds).z
    return z, ratio


def _profile_ratio(
    model: Model, log_loss: np.ndarray, z: np.ndarray, clusters: Clusters
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the point and ratio of the highest normal likelihood over PROFILE_RATIOS, constants refitted at each."""
    best, chosen, score = z.copy(), np.full(len(z), PROFILE_RATIOS[0]), np.full(len(z), -np.inf)
    for ratio in PROFILE_RATIOS:
        residuals = residual_function(model, log_loss, whitening(clusters, np.full(len(z), ratio)))
        point = levenberg_marquardt(residuals, z, model.bounds).z
        left = log_loss - model.log_loss_and_jacobian(point)[0]
        found = np.array([likelihood(row, clusters, ratio)[0] for row in left])
        better = found > score
        best[better], chosen[better], score[better] = point[better], ratio, found[better]
    return best, chosen


def _finish(
    table: RunTable,
    model: Model,
    z: np.ndarray,
    kind: Objective,
    clusters: Clusters | None,
    labels: tuple[str, ...] | None,
    cluster: str | None,
    ratio: float,
    certificate: Starts,
    others: list[tuple[float, np.ndarray]],
) -> FitResult:
    predicted, jacobian = (each[0] for each in model.log_loss_and_jacobian(z[None]))
    residual = np.log(table["loss"]) - predicted
    low, high = model.bounds
    free = (z > low) & (z < high)
    uncertainty = fit_uncertainty(residual, jacobian, kind, clusters, ratio, free)
    whitened = residual if clusters is None else whitening(clusters, np.array([ratio]))[0] @ residual
    log_likelihood, _ = likelihood(residual, clusters, ratio)
    count, num_noise = len(residual), 1 + (clusters is not None)
    num_constants = int(free.sum()) + num_noise
    aicc = -2 * log_likelihood + 2 * num_constants
    aicc += 2 * num_constants * (num_constants + 1) / max(count - num_constants - 1, 1e-9)
    parameters, ident = describe(model, z, residual, jacobian, uncertainty, free, others)
    variances = uncertainty.variances
    return FitResult(
        law=model.law.id,
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
            cluster if clusters else None,
            clusters.count if clusters else count,
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
        points={"loss": table["loss"], **model.columns},
        clusters=labels,
        z=z,
        scales=model.scales,
        fixed=model.fixed,
        uncertainty=uncertainty,
        source=table.source,
        notes=table.notes,
    )


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
    turn = whitening(clusters, np.array([ratio]))[0]
    whitened = turn @ residual
    sigma2 = max(float(whitened @ whitened) / max(len(residual) - int(free.sum()), 1), 1e-30)
    return clustered_uncertainty(jacobian, clusters, sigma2, ratio * sigma2, free)
