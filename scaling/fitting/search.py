"""The search for the minimum: every start is followed downhill, and the certificate says how many reached the best."""

from dataclasses import replace

import numpy as np

from kleiber.scaling.fitting.chunks import CHUNK
from kleiber.scaling.fitting.minimise import Minimum, Residuals, levenberg_marquardt, newton_polish
from kleiber.scaling.fitting.noise import Clusters, whiten
from kleiber.scaling.fitting.objective import EFFICIENT_DELTA, Objective, robust_scale
from kleiber.scaling.fitting.result import Starts
from kleiber.scaling.fitting.scaled_law import ScaledLaw
from kleiber.scaling.fitting.starts import sample_rows, start_points

AGREE = 1e-7
"""Two starts reached the same minimum if their costs differ by less than this share."""
MORE_STARTS = 200
"""Starts followed when fewer than two of the first reach the best minimum, so that nothing vouches for it."""
SAME_VALLEY = 1e-3
"""Reweighted minima whose costs differ by less than this share are polished once."""
ROUNDS = (4, 4, 6, 8, 16, 32, 200)
"""Steps between looks at which starts have met."""
MET = 0.2
"""Starts that differ by less than this in every working coordinate (mostly logarithms) have met; minima so close are
not told apart either (identifiability.other_optima)."""
TOLERANCE = {"gaussian": 1e-13, "huber": 1e-7, "student": 1e-7}
"""Share of the objective that a step must promise to be taken; reweighting is slow, Newton steps finish it."""
FEW = 256
"""So many starts are followed to the end each by itself."""
LONG = 20_000
"""Runs from which on starts are followed on a sample first, so that few steps on all of them remain."""
SAMPLE = 2_000
"""Runs in that sample."""


class FitFailedError(ValueError):
    """No start led to a finite minimum."""


def residual_function(
    scaled: ScaledLaw, log_loss: np.ndarray, clusters: Clusters | None = None, ratio: np.ndarray | None = None
) -> Residuals:
    """Returns the residual function of `levenberg_marquardt`: predicted minus measured log loss, whitened.

    Args:
      scaled: law and columns.
      log_loss: float64 [runs], or [problems, runs] with one set of losses a problem.
      clusters: runs that share an effect; None for independent errors.
      ratio: float64 [problems], tau^2 / sigma^2 of each, with clusters.
    """

    def residuals(z: np.ndarray, problem: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predicted, jacobian = scaled.log_loss_and_jacobian(z)
        measured = log_loss if log_loss.ndim == 1 else log_loss[problem]
        residual, jacobian = scaled.measure.weighed(predicted - measured, jacobian)
        if clusters is not None and ratio is not None:
            turned = whiten(np.concatenate([jacobian, residual[..., None]], axis=2), clusters, ratio[problem])
            return turned[..., -1], turned[..., :-1]
        return residual, jacobian

    return residuals


def search_minima(
    scaled: ScaledLaw, loss: np.ndarray, starts: int, objective: str, delta: float | None
) -> tuple[Objective, Minimum, np.ndarray, Starts]:
    """Returns the objective with its scale, the minimum of every start, the best working point [P], the certificate.

    Args:
      scaled: law and columns.
      loss: float64 [runs].
      starts: how many are followed; more when nothing vouches for the best minimum.
      objective: "gaussian", "huber" or "student".
      delta: of a robust objective; from the residuals if left out.

    Raises:
      FitFailedError: if no start gives a finite minimum.
    """
    for count in (starts, max(starts, MORE_STARTS)):
        points, tried = _starts(scaled, loss, count)
        if len(loss) > LONG:
            rows = sample_rows(len(loss), SAMPLE)
            sample = scaled.on(rows)
            measured = sample.measure.of(loss[rows])
            points = follow(sample, residual_function(sample, measured), points, Objective()).z
        kind, minimum = _minima(scaled, scaled.measure.of(loss), points, objective, delta)
        agreeing = int((minimum.cost <= minimum.cost.min() * (1 + AGREE) + 1e-22).sum())
        if agreeing > 1:
            break
    failed = int((~minimum.converged | ~np.isfinite(minimum.cost)).sum())
    return kind, minimum, minimum.z[minimum.cost.argmin()], Starts(tried, len(points), failed, agreeing)


def _starts(scaled: ScaledLaw, loss: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """Returns starts as `start_points`; losses below zero are lifted for it, and the floor lowered again."""
    if loss.min() > 0 or "E" not in scaled.free:
        return start_points(scaled, loss, count)
    lift = float(np.ptp(loss) - loss.min())
    points, tried = start_points(scaled, loss + lift, count)
    points[:, scaled.free.index("E")] -= lift / scaled.unit
    return points, tried


def _minima(
    scaled: ScaledLaw, log_loss: np.ndarray, points: np.ndarray, objective: str, delta: float | None
) -> tuple[Objective, Minimum]:
    residuals = residual_function(scaled, log_loss)
    kind = Objective("gaussian") if objective == "gaussian" or delta is None else Objective(objective, delta)
    minimum = follow(scaled, residuals, points, kind)
    if not np.isfinite(minimum.cost).any():
        raise FitFailedError(f"law {scaled.law.id}: none of {len(points)} starts reached a finite loss; check units.")
    if objective == "gaussian":
        return kind, minimum
    for _ in range(30 if delta is None else 0):
        best, _ = newton_polish(residuals, minimum.z[minimum.cost.argmin()], scaled.bounds, kind)
        scale = robust_scale(residuals(best[None], np.zeros(1, int))[0][0], len(best))
        size = max(scale * (EFFICIENT_DELTA if objective == "huber" else 1.0), 1e-12)
        if kind.kind == objective and abs(size / kind.delta - 1) < 1e-6:
            break
        kind = Objective(objective, size)
        # The best point so far is followed too, so that a new scale cannot lose it.
        found = follow(scaled, residuals, np.vstack([minimum.z, best]), kind)
        kept = np.arange(len(points))
        if found.cost[-1] < found.cost[:-1].min():
            kept[found.cost[:-1].argmax()] = len(points)
        minimum = replace(found, z=found.z[kept], cost=found.cost[kept], converged=found.converged[kept])
    return kind, _polished(scaled, residuals, kind, minimum)


def follow(scaled: ScaledLaw, residuals: Residuals, starts: np.ndarray, objective: Objective) -> Minimum:
    """Returns the local minimum of every start; of many starts, or on many runs, those that meet go on as one.

    Args:
      scaled: law and columns.
      residuals: see `Residuals`.
      starts: float64 [B, P].
      objective: what is minimised.
    """
    z, cost, converged = starts.copy(), np.zeros(len(starts)), np.zeros(len(starts), dtype=bool)
    num_runs = len(next(iter(scaled.columns.values())))
    leader, size = np.arange(len(starts)), max(1, CHUNK // num_runs)
    for steps in ROUNDS if len(starts) > FEW else (sum(ROUNDS),):
        leaders = np.unique(leader)
        if len(leaders) > FEW or num_runs > LONG:
            leader = _leaders(scaled, z, cost, leaders)[leader]
            leaders = np.unique(leader)
        live = leaders[~converged[leaders] & np.isfinite(cost[leaders])]
        for first in range(0, len(live), size):
            part = live[first : first + size]
            found = levenberg_marquardt(
                residuals, z[part], scaled.bounds, objective, max_steps=steps, tolerance=TOLERANCE[objective.kind]
            )
            z[part], cost[part], converged[part] = found.z, found.cost, found.converged
    return Minimum(z[leader], cost[leader], converged[leader])


def _leaders(scaled: ScaledLaw, z: np.ndarray, cost: np.ndarray, leaders: np.ndarray) -> np.ndarray:
    """Returns whom each start follows: of the leaders in one cell the one of lowest cost, of the others themselves."""
    size = np.median(np.abs(z[leaders]), axis=0)
    width = MET * np.where(scaled.is_log | (size == 0), 1.0, np.minimum(size, 1.0))
    _, cell = np.unique(np.floor(z[leaders] / width), axis=0, return_inverse=True)
    order = np.lexsort((cost[leaders], cell.ravel()))
    is_first = np.diff(cell.ravel()[order], prepend=-1) > 0
    out = np.arange(len(z))
    out[leaders[order]] = leaders[order[is_first]][np.cumsum(is_first) - 1]
    return out


def _polished(scaled: ScaledLaw, residuals: Residuals, kind: Objective, minimum: Minimum) -> Minimum:
    """Returns the minima sharpened by second derivatives, so that the certificate compares like with like."""
    _, firsts, place = np.unique(minimum.z, axis=0, return_index=True, return_inverse=True)
    z, cost = minimum.z[firsts], minimum.cost[firsts]
    before = cost.copy()
    order = np.argsort(cost, kind="stable")
    for index in order[cost[order] <= cost.min() * 1.05]:
        same = cost[index] < cost[order[0]] * (1 + SAME_VALLEY) and np.abs(z[index] - z[order[0]]).max() < 0.05
        if same and index != order[0]:
            z[index], cost[index] = z[order[0]], cost[order[0]]
        else:
            z[index], cost[index] = newton_polish(residuals, z[index], scaled.bounds, kind)
    place = place.ravel()
    return Minimum(z[place], cost[place], minimum.converged | (cost < before)[place])
