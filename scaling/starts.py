"""Where fits start: a dense grid over the nonlinear constants, the linear ones solved for exactly at each point."""

import functools
import itertools
import math

import numpy as np

from kleiber.scaling.model import Model

GRID = {0: 1, 1: 256, 2: 1024}
"""Points of a regular grid over up to two nonlinear constants; more constants get quasi-random points."""
NUM_QUASI_RANDOM = 4096


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


def start_points(model: Model, loss: np.ndarray, keep: int = 16) -> tuple[np.ndarray, int]:
    """Returns the most promising working points [keep, P] and how many were tried.

    Args:
      model: law and columns.
      loss: float64 [runs], nats per token.
      keep: points kept; they are chosen apart from each other, so that several valleys are entered.
    """
    candidates, cost = start_candidates(model, loss, keep)
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


def start_candidates(model: Model, loss: np.ndarray, at_least: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns every start tried [count, P] with the linear constants solved for, and its squared relative error."""
    law, free = model.law, model.free
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
    with np.errstate(all="ignore"):
        values = model.constants(z)
        x = model.centred()
        basis = np.stack([_part(model, values, x, group, groups) for group in groups], -1) if groups else None
        offset = _part(model, values, x, (), groups)
        weight = 1 / loss
        if basis is None:
            return z, np.nan_to_num(((offset * weight - 1) ** 2).sum(axis=-1), nan=np.inf, posinf=np.inf)
        basis = np.nan_to_num(basis * weight[:, None], nan=0.0, posinf=1e100, neginf=0.0)
        target = np.nan_to_num((loss - offset) * weight, nan=1e100, posinf=1e100)
        coefficients, cost = solve_nonnegative(basis, target)
    largest = np.maximum(coefficients.max(axis=1, keepdims=True), 1e-300)
    for index, group in enumerate(groups):
        for name in group:
            position = free.index(name)
            if law[name].transform == "log":
                # A part left out by the non-negative solve starts small, so that it can come back.
                part = np.maximum(coefficients[:, index], 1e-4 * largest[:, 0])
                z[:, position] = np.log(part) + (0.0 if name == group[0] else z[:, position])
            else:
                z[:, position] = coefficients[:, index]
    return z, cost


def _part(model: Model, values: dict, x: dict, group: tuple[str, ...], groups: list[tuple[str, ...]]) -> np.ndarray:
    """Returns the loss [b, runs] with one linear group at unit size and the others at zero."""
    point = dict(values)
    for other in groups:
        for name in other:
            if other != group:
                point[name] = np.zeros((1, 1))
        if other == group:
            point[other[0]] = np.ones((1, 1))
    part = model.law.loss(point, x)
    return np.broadcast_to(part, (len(next(iter(values.values()))) if part.ndim < 2 else part.shape[0], part.shape[-1]))
