"""Where fits start: a dense grid over the nonlinear constants, the linear ones solved for exactly at each point."""

import functools
import itertools
import math

import numpy as np

from kleiber.scaling.fitting.chunks import CHUNK, keep_freed_memory
from kleiber.scaling.fitting.scaled_law import ScaledLaw

GRID = {0: 1, 1: 256, 2: 1024}
"""Points of a regular grid over up to two nonlinear constants; more constants get quasi-random points."""
NUM_QUASI_RANDOM = 4096
SCREENED = 80
"""Runs that starts are compared on at most."""
GOLDEN = (5**0.5 - 1) / 2
"""Steps of this share of a table visit it evenly, in step with no pattern of its rows."""


@functools.cache
def unit_points(num_dimensions: int, at_least: int = 0) -> np.ndarray:
    """Returns points [count, dimensions] that cover the unit cube evenly, always the same.

    Source: the additive recurrence of Roberts 2018 (generalised golden ratio) beyond two dimensions.
    """
    if num_dimensions in GRID:
        side = math.ceil(max(GRID[num_dimensions], at_least) ** (1 / max(num_dimensions, 1)) - 1e-9)
        axis = (np.arange(side) + 0.5) / side
        grids = np.meshgrid(*[axis] * num_dimensions, indexing="ij")
        return np.stack(grids, -1).reshape(-1, num_dimensions) if grids else np.zeros((1, 0))
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (num_dimensions + 1))
    steps = root ** -np.arange(1, num_dimensions + 1)
    return (0.5 + np.arange(1, max(NUM_QUASI_RANDOM, at_least) + 1)[:, None] * steps) % 1


def solve_nonnegative(basis: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the non-negative least-squares coefficients of each problem, exactly, by trying every support.

    Args:
      basis: float64 [b, runs, K] with K at most about 5.
      target: float64 [b, runs] or [runs].

    Returns:
      coefficients [b, K] and the sum of squared residuals [b].
    """
    target = np.broadcast_to(target, basis.shape[:2])
    gram = np.matmul(np.swapaxes(basis, 1, 2), basis)
    moment = np.matmul(np.swapaxes(basis, 1, 2), target[..., None])[..., 0]
    total = np.einsum("bn,bn->b", target, target)
    num_terms = basis.shape[2]
    best = np.zeros((len(basis), num_terms))
    best_fall = np.zeros(len(basis))
    size = np.maximum(np.sqrt(np.einsum("bkk->bk", gram)), 1e-150)
    for count in range(1, num_terms + 1):
        for support in itertools.combinations(range(num_terms), count):
            chosen = list(support)
            norm = size[:, chosen]
            matrix = gram[:, chosen][:, :, chosen] / (norm[:, :, None] * norm[:, None, :])
            matrix = matrix + 1e-13 * np.eye(count)
            solution = np.linalg.solve(matrix, (moment[:, chosen] / norm)[..., None])[..., 0] / norm
            fall = np.einsum("bk,bk->b", solution, moment[:, chosen])
            good = (solution >= 0).all(axis=1) & np.isfinite(fall) & (fall > best_fall)
            best_fall = np.where(good, fall, best_fall)
            best[good] = 0.0
            best[np.ix_(good, chosen)] = solution[good]
    return best, np.maximum(total - best_fall, 0.0)


def start_points(scaled: ScaledLaw, loss: np.ndarray, keep: int = 16) -> tuple[np.ndarray, int]:
    """Returns the most promising working points [keep, P] and how many were tried.

    Args:
      scaled: law and columns.
      loss: float64 [runs], nats per token.
      keep: points kept; they are chosen apart from each other, so that several valleys are entered.
    """
    candidates, cost = start_candidates(scaled, loss, keep)
    if keep >= len(cost):
        return candidates, len(cost)
    order = np.argsort(cost, kind="stable")[: min(len(cost), 40 * keep)]
    spread = np.ptp(candidates[order], axis=0)
    unit = candidates[order] / np.where(spread > 0, spread, 1.0)
    chosen = [0]
    distance = np.abs(unit - unit[0]).max(axis=1)
    while len(chosen) < keep and (apart := np.flatnonzero(distance > 0.08)).size:
        chosen.append(int(apart[0]))
        distance = np.minimum(distance, np.abs(unit - unit[apart[0]]).max(axis=1))
    rest = np.setdiff1d(np.arange(len(order)), chosen)  # then the best of those near a chosen one
    chosen += rest[: max(keep - len(chosen), 0)].tolist()
    return candidates[order[chosen]], len(cost)


def sample_rows(count: int, wanted: int) -> np.ndarray:
    """Returns about `wanted` rows of a table of `count`, spread evenly, always the same ones."""
    return np.unique((np.arange(wanted) * GOLDEN % 1 * count).astype(int))


def start_candidates(scaled: ScaledLaw, loss: np.ndarray, at_least: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns every start tried [count, P] with the linear constants solved for, and its squared relative error.

    Of a long table only SCREENED runs count here; what is followed from a start is followed on all of them.
    """
    keep_freed_memory()
    law, free = scaled.law, scaled.free
    if len(loss) > SCREENED:
        rows = sample_rows(len(loss), SCREENED)
        scaled, loss = scaled.on(rows), loss[rows]
    loss = loss / scaled.unit
    groups = [tuple(name for name in group if name in free) for group in law.linear]
    groups = [group for group, whole in zip(groups, law.linear, strict=True) if group == whole]
    leaders = {group[0] for group in groups}
    searched = [name for name in free if name not in leaders]
    points = unit_points(len(searched), at_least)
    z = np.zeros((len(points), len(free)))
    for column, name in enumerate(searched):
        parameter = law[name]
        if parameter.start is None and parameter.transform != "log":
            raise ValueError(f"law {law.id}: constant {name!r} needs a start range, being searched over.")
        low, high = parameter.start or (0.02, 50.0)
        if parameter.transform == "log":
            low, high = np.log(low), np.log(high)
        z[:, free.index(name)] = low + (high - low) * points[:, column]
    coefficients, cost = np.zeros((len(z), len(groups))), np.zeros(len(z))
    size = max(1, CHUNK // len(loss))
    with np.errstate(all="ignore"):
        for first in range(0, len(z), size):
            part = slice(first, first + size)
            basis, offset = _parts(scaled, z[part], groups)
            coefficients[part], cost[part] = _solve(basis / loss, offset / loss)
    if not groups:
        return z, cost
    largest = np.maximum(coefficients.max(axis=1, keepdims=True), 1e-300)
    for index, group in enumerate(groups):
        for name in group:
            position = free.index(name)
            if law[name].transform == "log":
                # A part left out by the non-negative solve starts small, so that it can come back.
                least = np.maximum(coefficients[:, index], 1e-4 * largest[:, 0])
                z[:, position] = np.log(least) + (0.0 if name == group[0] else z[:, position])
            else:
                z[:, position] = coefficients[:, index]
    return z, cost


def _solve(basis: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns coefficients [b, K] and cost [b] of parts [b, K, runs] and offset [b, runs], relative to the loss."""
    if not basis.shape[1]:
        return np.zeros((len(basis), 0)), np.nan_to_num(((offset - 1) ** 2).sum(axis=-1), nan=np.inf, posinf=np.inf)
    basis = np.nan_to_num(basis, copy=False, nan=0.0, posinf=1e100, neginf=0.0)
    target = np.nan_to_num(1 - offset, copy=False, nan=1e100, posinf=1e100)
    return solve_nonnegative(np.swapaxes(basis, 1, 2), target)


def _parts(scaled: ScaledLaw, z: np.ndarray, groups: list[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of the loss [b, K, runs] of each linear group at unit size, and what is left [b, runs]."""
    law, x, values = scaled.law, scaled.centred(), scaled.constants(z)
    num_runs = len(next(iter(x.values())))
    basis = np.empty((len(z), len(groups), num_runs))
    for group in groups:
        values[group[0]] = np.ones((1, 1))
    if law.gradient is not None:
        # Euler: a part that doubles with its constants is the sum of each times the derivative by it.
        loss, derivative = law.gradient(values, x)
        for index, group in enumerate(groups):
            basis[:, index] = sum(
                derivative[name] * (1.0 if law[name].transform == "log" else values[name]) for name in group
            )
        return basis, loss - basis.sum(axis=1)
    # Next to nothing instead of nothing, because a group's constants may be divided by each other.
    nothing = {name: values[name] * 1e-200 for group in groups for name in group}
    offset = np.broadcast_to(law.loss({**values, **nothing}, x), (len(z), num_runs))
    for index, group in enumerate(groups):
        own = {name: values[name] for name in group}
        basis[:, index] = law.loss({**values, **nothing, **own}, x) - offset
    return basis, offset
