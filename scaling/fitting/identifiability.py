"""What a design of runs can and cannot say about a law's constants, and the alarms when it cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.scaled_law import ScaledLaw, Solution

LARGEST_CONDITION = 1e8
"""Beyond this the constants in the weakest direction are withheld; sound designs have 1e5 to 1e6."""


@dataclass(frozen=True)
class Identifiability:
    """How well the runs pin the constants down; always printed with a fit."""

    condition: float
    """Largest over smallest eigenvalue of the Fisher matrix in logarithms of the constants."""
    eigenvalues: tuple[float, ...]
    """Of that matrix for unit noise, largest first."""
    weakest: Mapping[str, float]
    """Share of each constant in the direction that the runs say least about; a unit vector."""
    correlation: Mapping[str, float]
    """Correlation of pairs of estimates, as {"A,alpha": 0.99}."""
    drift: Mapping[str, float]
    """Largest change of each exponent when a fifth of the runs, by compute, is left out; in standard errors."""
    alarms: tuple[str, ...]
    """Each begins with a name and a colon."""

    def weakest_in_words(self) -> str:
        """Returns the weakest direction as a short phrase."""
        parts = sorted(self.weakest.items(), key=lambda item: -abs(item[1]))
        parts = [(name, share) for name, share in parts if abs(share) >= 0.2]
        sign = np.sign(parts[0][1]) if parts else 1.0
        return ", ".join(f"{name} {'up' if share * sign > 0 else 'down'}" for name, share in parts) + " together"


def log_jacobian(scaled: ScaledLaw, z: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """Returns the derivative of log loss by the logarithm of each constant, [runs, P]; a constant at 0 stays linear."""
    factor = np.where(scaled.is_log, 1.0, np.where(np.abs(z) > 1e-12, np.abs(z), 1.0))
    return jacobian * factor


def fisher(scaled: ScaledLaw, z: np.ndarray, jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the eigenvalues (descending) and eigenvectors [P, P] (columns) of the unit-noise Fisher matrix."""
    _, singular, turned = np.linalg.svd(log_jacobian(scaled, z, jacobian), full_matrices=False)
    return singular**2, turned.T


def design_alarms(scaled: ScaledLaw) -> dict[str, str]:
    """Returns the alarms that follow from where the runs are, before any loss is seen, by name."""
    columns = scaled.columns
    if not {"num_params_total", "num_tokens"} <= set(columns):
        return {}
    params, tokens = columns["num_params_total"], columns["num_tokens"]
    ratio, compute = tokens / params, 6 * params * tokens
    alarms = {}
    if ratio.max() <= 4 * ratio.min():
        alarms["constant-ratio"] = (
            f"tokens per parameter only span {ratio.min():.3g} to {ratio.max():.3g}; exponents of parameters and "
            "tokens cannot be told apart. Add runs at a quarter and at four times this ratio"
        )
    elif _most_ratios_at_a_budget(ratio, compute) < 3:
        alarms["few-ratios"] = (
            "fewer than 3 different tokens per parameter at any budget (within a factor of 2 of compute); "
            "add runs of equal compute and different size"
        )
    return alarms


def _most_ratios_at_a_budget(ratio: np.ndarray, compute: np.ndarray, enough: int = 3) -> int:
    """Returns how many ratios, each a tenth above the last, meet at one budget at most; counts up to `enough`.

    A budget is a factor of 2 in compute around a run.
    """
    pairs = np.unique(np.log(np.stack([compute, ratio], axis=1)), axis=0)  # by compute: a budget is one stretch
    log_compute, log_ratio = pairs.T
    reach, most = np.log(2.0) / 2 + 1e-9, 0
    firsts = np.searchsorted(log_compute, log_compute - reach, side="left")
    ends = np.searchsorted(log_compute, log_compute + reach, side="right")
    for first, end in np.unique(np.stack([firsts, ends], axis=1), axis=0):
        count, larger = 0, log_ratio[first:end]
        while larger.size and count < enough:
            larger = larger[larger > larger.min() + np.log(1.1)]
            count += 1
        most = max(most, count)
        if most >= enough:
            break
    return most


def identify(
    solution: Solution,
    covariance: np.ndarray,
    relative_errors: Mapping[str, float],
    drift: Mapping[str, float],
    others: Sequence[tuple[float, np.ndarray]] = (),
) -> tuple[Identifiability, dict[str, str]]:
    """Returns the report, and why each withheld constant is withheld, by name.

    Args:
      solution: law, runs and the fitted point.
      covariance: float64 [P, P] of the point.
      relative_errors: standard error over estimate of every free constant.
      drift: see `Identifiability`.
      others: competing optima (`other_optima`).
    """
    scaled, z = solution.scaled, solution.z
    values, vectors = fisher(scaled, z, solution.jacobian)
    condition = float(values[0] / values[-1]) if values[-1] > 0 else np.inf
    weakest = dict(zip(scaled.free, vectors[:, -1].tolist(), strict=True))
    alarms = design_alarms(scaled)
    withheld: dict[str, str] = {}
    exponents = [name for name in scaled.free if name in _exponents(scaled)]
    if "constant-ratio" in alarms:
        for name in scaled.free:
            if name in exponents or scaled.law[name].scale or name == "q":
                withheld[name] = "constant-ratio"
    if condition > LARGEST_CONDITION:
        alarms["condition"] = (
            f"condition number {condition:.1e} in the logarithms of the constants exceeds {LARGEST_CONDITION:.0e}"
        )
        for name, share in weakest.items():
            if abs(share) >= 0.3:
                withheld.setdefault(name, "condition")
    for name in exponents:
        if not relative_errors[name] <= 0.5:
            alarms[f"loose-{name}"] = f"the standard error of {name} exceeds half of it"
            withheld.setdefault(name, f"loose-{name}")
    if others:
        alarms["several-optima"], loose = _several(scaled, z, others)
        for name in loose:
            withheld.setdefault(name, "several-optima")
    if "E" in scaled.free and not relative_errors["E"] <= 1.0:
        alarms["floor"] = "E is within one standard error of zero; the floor of the loss is not seen in these runs"
    drifting = {name: size for name, size in drift.items() if size > 4}
    if drifting:
        text = ", ".join(f"{name} by {size:.1f} standard errors" for name, size in drifting.items())
        alarms["drift"] = (
            f"leaving out a fifth of the runs by compute moves {text}; the law may not hold over this range"
        )
    report = Identifiability(
        condition,
        tuple(values.tolist()),
        weakest,
        _correlations(scaled.free, covariance),
        dict(drift),
        tuple(f"{name}: {text}." for name, text in alarms.items()),
    )
    return report, {name: f"{reason}: {alarms[reason]}." for name, reason in withheld.items()}


def _exponents(scaled: ScaledLaw) -> set[str]:
    """Returns the constants that shape the law: those it is not linear in and that have no unit."""
    linear = {name for group in scaled.law.linear for name in group}
    return {each.name for each in scaled.law.parameters if each.name not in linear and not each.scale}


def other_optima(scaled: ScaledLaw, z: np.ndarray, cost: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Returns (objective, working point) of up to 5 local optima that the runs hardly tell from the best one.

    They differ from it, and from each other, by a quarter in some constant, and their objective exceeds the best
    by less than a share 3.84 / runs: about what a likelihood-ratio test at 95% would let pass.

    Args:
      scaled: law and runs.
      z: float64 [starts, P], minima.
      cost: float64 [starts], their objective.
    """
    if not len(z):
        return []
    _, distinct = np.unique(z, axis=0, return_index=True)
    order = distinct[np.argsort(cost[distinct], kind="stable")]
    unit = np.where(scaled.is_log, 1.0, np.maximum(np.abs(z[order[0]]), 1e-12))
    num_runs = len(next(iter(scaled.columns.values())))
    kept = [int(order[0])]
    for index in order[1:]:
        near = cost[index] <= cost[order[0]] * (1 + 3.84 / num_runs)
        apart = all(np.max(np.abs(z[index] - z[other]) / unit) > np.log(1.25) for other in kept)
        if near and apart and len(kept) <= 5:
            kept.append(int(index))
    return [(float(cost[index]), z[index]) for index in kept[1:]]


def _several(scaled: ScaledLaw, z: np.ndarray, others: Sequence[tuple[float, np.ndarray]]) -> tuple[str, list[str]]:
    """Returns the alarm in words, and the constants that differ by half or more between the optima."""
    best = scaled.reported(z)
    loose: list[str] = []
    texts = []
    for objective, other in others:
        values = scaled.reported(other)
        moved = [
            name
            for name in scaled.free
            if abs(values[name] - best[name]) > 0.5 * min(abs(values[name]), abs(best[name]))
        ]
        loose += [name for name in moved if name not in loose]
        texts.append(
            f"{objective:.8g} at " + ", ".join(f"{name} {float(values[name]):.4g}" for name in moved or scaled.free)
        )
    here = ", ".join(f"{name} {float(best[name]):.4g}" for name in loose or scaled.free)
    return f"the best optimum, at {here}, is hardly told from others: objective " + "; ".join(texts), loose


def _correlations(names: tuple[str, ...], covariance: np.ndarray) -> dict[str, float]:
    deviation = np.sqrt(np.diag(covariance))
    return {
        f"{second},{first}": float(covariance[i, j] / (deviation[i] * deviation[j]))
        for i, first in enumerate(names)
        for j, second in enumerate(names[:i])
        if deviation[i] > 0 and deviation[j] > 0
    }
