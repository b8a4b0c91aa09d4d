"""The search for a design: greedy purchases by gain over cost, then swaps, with shared trunks counted as such."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

COST_POWER = 0.4
"""Greedy purchases take the largest gain / cost ** 0.4 (Li 2026, arXiv:2604.22753)."""
OTHER_POWERS = (1.0, 0.7)
"""Further greedy starts for the swaps: with few affordable runs a thriftier start ends better."""
GREEDY_PRIOR = 1.0
"""Standard deviation of every working coordinate (mostly logarithms) while too few runs are bought to fit the law."""
FINAL_PRIOR = 30.0
"""And while swapping, so that the runs bought must identify the law by themselves."""

MOST_PASSES = 40
"""Rounds of swaps."""
Bought = tuple[list[int], list[float]]
"""Candidates in the order bought (repeated ones are runs with other seeds), and the criterion after each."""


@dataclass(frozen=True)
class Form:
    """One law as the designer sees it: derivatives of log loss at every candidate and at the targets.

    A rival carries one more column, the difference of log loss between the law designed for and the rival; what is
    left of it after the rival is refitted tells how soon the runs reject the rival, and what it still says otherwise.
    """

    rows: np.ndarray
    """float64 [candidates, K]."""
    wanted: np.ndarray
    """float64 [targets, K]."""
    base: np.ndarray
    """float64 [K, K], information of the runs already there."""
    weight: float = 1.0
    """Of a rival against the law designed for, from the runs already there."""


@dataclass(frozen=True)
class Problem:
    """What may be bought, what it costs, and what it is for."""

    flops: np.ndarray
    """float64 [candidates], cost of each as a run by itself."""
    forms: tuple[Form, ...]
    """The law designed for, then its rivals."""
    point_variance: float
    """Of one log loss apart from its trunk."""
    trunk_variance: float = 0.0
    trunk: np.ndarray | None = None
    """int [candidates]: candidates of equal number are branches of one trunk, each bought at most once. None: every
    purchase is a run by itself, and one candidate may be bought several times with other seeds."""
    cooldown: float = 0.2
    """Share of a run that a branch trains by itself."""
    max_repeats: int = 10**9
    """How often one candidate may be bought, as runs by themselves."""
    aim: str = "prediction"
    """"prediction": mean variance at the targets. "constants": the determinant of the covariance (D-optimal)."""

    def cost(self, chosen: Sequence[int]) -> float:
        """Returns the FLOPs of a design; the stable part of a trunk is paid for once."""
        picks = np.asarray(chosen, dtype=int)
        if self.trunk is None or not len(picks):
            return float(self.flops[picks].sum())
        longest = np.zeros(int(self.trunk.max()) + 1)
        np.maximum.at(longest, self.trunk[picks], self.flops[picks])
        return float(self.cooldown * self.flops[picks].sum() + (1 - self.cooldown) * longest.sum())

    def added_cost(self, chosen: Sequence[int]) -> np.ndarray:
        """Returns the FLOPs [candidates] that buying one more candidate would add; infinite where it is not allowed."""
        picks = np.asarray(chosen, dtype=int)
        if self.trunk is None:
            full = np.bincount(picks, minlength=len(self.flops)) >= self.max_repeats
            return np.where(full, np.inf, self.flops)
        longest = np.zeros(int(self.trunk.max()) + 1)
        np.maximum.at(longest, self.trunk[picks], self.flops[picks])
        longer = np.maximum(self.flops - longest[self.trunk], 0.0)
        added = self.cooldown * self.flops + (1 - self.cooldown) * longer
        added[picks] = np.inf
        return added


def information(problem: Problem, chosen: Sequence[int]) -> list[np.ndarray]:
    """Returns the information [K, K] of each form from the runs already there and those chosen, without a prior."""
    out = []
    for form in problem.forms:
        total = form.base.copy()
        for rows in _by_trunk(problem, chosen):
            part = form.rows[rows]
            total += _trunk_information(problem, part.T @ part, part.sum(axis=0), len(rows))
        out.append(total)
    return out


def _by_trunk(problem: Problem, chosen: Sequence[int]) -> list[list[int]]:
    if problem.trunk is None:
        return [[index] for index in chosen]
    groups: dict[int, list[int]] = {}
    for index in chosen:
        groups.setdefault(int(problem.trunk[index]), []).append(index)
    return list(groups.values())


def _trunk_information(problem: Problem, squares: np.ndarray, total: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    """Returns J' V^-1 J of runs on one trunk from their sums [..., K, K] and [..., K]."""
    ratio = problem.trunk_variance / problem.point_variance
    share = np.asarray(ratio / (1 + count * ratio))[..., None, None]
    return (squares - share * total[..., :, None] * total[..., None, :]) / problem.point_variance


def informations_with_one_more(problem: Problem, chosen: Sequence[int]) -> list[np.ndarray]:
    """Returns, for each form, the information [candidates, K, K] after buying one more candidate."""
    out = []
    for form, total in zip(problem.forms, information(problem, chosen), strict=True):
        rows = form.rows
        outer = rows[:, :, None] * rows[:, None, :]
        if problem.trunk is None:
            out.append(total + _trunk_information(problem, outer, rows, 1))
            continue
        num_trunks = int(problem.trunk.max()) + 1
        picks = np.asarray(chosen, dtype=int)
        count = np.bincount(problem.trunk[picks], minlength=num_trunks)[problem.trunk]
        sums = np.zeros((num_trunks, rows.shape[1]))
        np.add.at(sums, problem.trunk[picks], rows[picks])
        before = sums[problem.trunk]
        # The squares of the runs already on the trunk cancel between the two.
        after = _trunk_information(problem, outer, before + rows, count + 1)
        out.append(total + after - _trunk_information(problem, np.zeros_like(outer), before, count))
    return out


def criterion(problem: Problem, informations: Sequence[np.ndarray], prior: float) -> np.ndarray:
    """Returns what is minimised [b], for the information [b, K, K] of each form.

    For predictions: the mean variance of log loss at the targets, plus the squared distance of each rival's forecast
    weighted by how far it is from being rejected.
    """
    main, *rivals = problem.forms
    matrix = informations[0] + np.eye(main.rows.shape[1]) / prior**2
    if problem.aim == "constants":
        return -np.linalg.slogdet(matrix)[1]
    solved = np.linalg.solve(matrix, np.broadcast_to(main.wanted.T, (*matrix.shape[:-2], *main.wanted.T.shape)))
    value = np.einsum("tk,...kt->...", main.wanted, solved) / len(main.wanted)
    if not rivals:
        return value
    parts = [_disagreement(form, each, prior) for form, each in zip(rivals, informations[1:], strict=True)]
    total = 1.0 + sum(weight for weight, _ in parts)
    return value + sum(weight * distance for weight, distance in parts) / total


def _disagreement(form: Form, matrix: np.ndarray, prior: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weight [b] of a rival after the runs, and its mean squared distance [b] at the targets."""
    num_free = form.rows.shape[1] - 1

    def left(each: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = each[..., :num_free, :num_free] + np.eye(num_free) / prior**2
        cross = each[..., :num_free, num_free]
        shift = np.linalg.solve(own, cross[..., None])[..., 0]
        return each[..., num_free, num_free] - np.einsum("...k,...k->...", cross, shift), shift

    gap, shift = left(matrix)
    distance = form.wanted[:, num_free] - shift @ form.wanted[:, :num_free].T
    # Half the gap is the expected fall of the rival's log likelihood; what the runs already there say is in `weight`.
    weight = form.weight * np.exp(-0.5 * np.maximum(gap - left(form.base)[0], 0.0))
    return weight, (distance**2).mean(axis=-1)


def search_design(problem: Problem, budget: float, max_runs: int, stop_at: float = 0.0) -> Bought:
    """Returns the runs to buy for a budget: greedy purchases, then swaps until none helps, from several starts.

    Args:
      problem: see `Problem`.
      budget: FLOPs.
      max_runs: runs at most.
      stop_at: if above 0, the greedy purchases end once the criterion without a prior is at most this, and swaps
        are left out.
    """
    limit = Limit(budget, max_runs, stop_at)
    greedy, path = _buy(problem, [], limit, COST_POWER)
    if stop_at and path and path[-1] <= stop_at:
        return greedy, path
    best, lowest = greedy, np.inf
    starts = [(power, _buy(problem, [], limit, power)[0]) for power in (COST_POWER, *OTHER_POWERS)]
    if len(problem.forms) > 1:
        alone = replace(problem, forms=problem.forms[:1])
        starts.append((COST_POWER, _improve(alone, starts[0][1], limit, COST_POWER)))
    for power, chosen in starts:
        chosen = _improve(problem, chosen, limit, power)
        value = _value(problem, chosen)
        if value < lowest:
            best, lowest = chosen, value
    generous = Limit(budget * (1 + 1e-9), max_runs, stop_at)
    return _buy(problem, [], generous, COST_POWER, among=list(best))


@dataclass(frozen=True)
class Limit:
    """When purchases end."""

    budget: float
    max_runs: int
    stop_at: float


def _improve(problem: Problem, chosen: list[int], limit: Limit, power: float) -> list[int]:
    """Returns the purchases after swaps, with more bought where that leaves money, until nothing gets better."""
    chosen = list(chosen)
    for _ in range(MOST_PASSES):
        if not _swap(problem, chosen, limit.budget):
            break
        chosen = _buy(problem, chosen, limit, power)[0]
    return chosen


def _value(problem: Problem, chosen: Sequence[int], prior: float = FINAL_PRIOR) -> float:
    return float(criterion(problem, [each[None] for each in information(problem, chosen)], prior)[0])


def _buy(problem: Problem, chosen: Sequence[int], limit: Limit, power: float, among: list[int] | None = None) -> Bought:
    """Returns the purchases with those of largest gain over cost added, and the criterion after each added one.

    With `among`, only those candidates are bought, each as often as it is listed.
    """
    chosen, path = list(chosen), []
    while len(chosen) < limit.max_runs and (among is None or among):
        cost = problem.added_cost(chosen)
        allowed = problem.cost(chosen) + cost <= limit.budget
        if among is not None:
            allowed &= np.isin(np.arange(len(cost)), among)
        if not allowed.any():
            break
        before = _value(problem, chosen, GREEDY_PRIOR)
        after = criterion(problem, informations_with_one_more(problem, chosen), GREEDY_PRIOR)
        best = int(np.where(allowed, (before - after) / np.where(allowed, cost, 1.0) ** power, -np.inf).argmax())
        chosen.append(best)
        if among is not None:
            among.remove(best)
        path.append(_value(problem, chosen))
        if limit.stop_at and path[-1] <= limit.stop_at:
            break
    return chosen, path


def _swap(problem: Problem, chosen: list[int], budget: float) -> bool:
    """Replaces each run by the best candidate that the budget allows; returns whether anything got better."""
    improved = False
    for position in range(len(chosen)):
        rest = chosen[:position] + chosen[position + 1 :]
        allowed = problem.cost(rest) + problem.added_cost(rest) <= budget
        value = np.where(allowed, criterion(problem, informations_with_one_more(problem, rest), FINAL_PRIOR), np.inf)
        best = int(value.argmin())
        gain = value[chosen[position]] - value[best]
        if gain > 1e-6 * abs(value[chosen[position]]):
            chosen[position] = best
            improved = True
    return improved
