"""Constants as reported: values with t intervals, withheld where the runs cannot give them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from kleiber.scaling.fitting.identifiability import Identifiability, identify
from kleiber.scaling.fitting.result import Estimate
from kleiber.scaling.fitting.scaled_law import STEP, ScaledLaw, Solution
from kleiber.scaling.fitting.uncertainty import Uncertainty


def transformed_gradient(scaled: ScaledLaw, z: np.ndarray, name: str) -> tuple[float, np.ndarray, bool]:
    """Returns a constant's value, the gradient [P] of it (of its logarithm if positive by nature), and which."""
    shifted = scaled.reported(z + 1j * STEP * np.eye(len(z)))[name]
    value = float(shifted[0].real) if len(z) else float(scaled.reported(z)[name])
    is_log = scaled.law[name].transform == "log"
    with np.errstate(over="ignore", invalid="ignore"):  # of a constant that the runs say nothing about
        gradient = shifted.imag / STEP
        return value, gradient / value if is_log else gradient, is_log


def t_quantile(degrees: float | np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """Returns the quantile of Student's t at a share of its probability; degrees of freedom may be infinite."""
    from scipy.special import stdtrit  # a quarter of a second, which the start of a run need not wait for

    return stdtrit(np.minimum(degrees, 1e9), share)


def interval(value: float, deviation: float, degrees: float, is_log: bool, level: float = 0.95) -> tuple[float, float]:
    """Returns the t interval around a value; symmetric in its logarithm if `is_log`."""
    reach = float(t_quantile(degrees, 0.5 + level / 2)) * deviation
    if is_log:
        with np.errstate(over="ignore"):
            return float(value * np.exp(-reach)), float(value * np.exp(reach))
    return value - reach, value + reach


def stepped(z: np.ndarray, step: float) -> np.ndarray:
    """Returns the working point [P], then it with each coordinate a step up, then a step down: [1 + 2 P, P]."""
    steps = step * np.eye(len(z))
    return np.concatenate([z[None], z + steps, z - steps])


def stepped_interval(
    found: np.ndarray, step: float, uncertainty: Uncertainty, level: float, is_log: bool = False
) -> tuple[float, float]:
    """Returns the t interval, by the delta method, of a quantity from its values [1 + 2 P] at the `stepped` points.

    Args:
      found: the quantity, or its logarithm.
      step: as given to `stepped`.
      uncertainty: of the working point.
      level: probability.
      is_log: whether `found` are logarithms; the interval is of the quantity itself either way.
    """
    count = (len(found) - 1) // 2
    variance, degrees = uncertainty.degrees((found[1 : count + 1] - found[count + 1 :]) / (2 * step))
    value = float(np.exp(found[0])) if is_log else float(found[0])
    return interval(value, float(np.sqrt(max(variance, 0.0))), degrees, is_log, level)


def describe(
    solution: Solution, uncertainty: Uncertainty, others: Sequence[tuple[float, np.ndarray]] = ()
) -> tuple[dict[str, Estimate], Identifiability]:
    """Returns every constant with its interval, and the identifiability report.

    Args:
      solution: law, runs and the fitted point.
      uncertainty: of the point.
      others: competing optima.
    """
    scaled, z, free = solution.scaled, solution.z, solution.free
    rough: dict[str, Estimate] = {}
    relative: dict[str, float] = {}
    for name in scaled.law.names:
        root = scaled.fixed.get(name, name)
        if not isinstance(root, str):
            rough[name] = Estimate(float(root), 0.0, (float(root),) * 2, fixed=True)
            continue
        value, gradient, is_log = transformed_gradient(scaled, z, name)
        variance, degrees = uncertainty.degrees(gradient)
        deviation = float(np.sqrt(variance))
        size = deviation * value if is_log else deviation
        bound = not free[scaled.free.index(root)]
        rough[name] = Estimate(value, size, interval(value, deviation, degrees, is_log), at_bound=bool(bound))
        relative[name] = np.inf if bound else size / abs(value) if value else np.inf
    drift = _drift(solution, uncertainty)
    ident, withheld = identify(solution, uncertainty.covariance, relative, drift, others)
    nothing = (np.nan, np.nan)
    for name, reason in withheld.items():
        rough[name] = replace(rough[name], estimate=np.nan, standard_error=np.nan, interval_95=nothing, withheld=reason)
    return rough, ident


def _drift(solution: Solution, uncertainty: Uncertainty) -> dict[str, float]:
    """Returns how far each exponent moves, in standard errors, when a fifth of the runs is left out; linearised."""
    scaled, free = solution.scaled, solution.free
    if not {"num_params_total", "num_tokens"} <= set(scaled.columns) or scaled.law.frontier is None:
        return {}
    compute = scaled.columns["num_params_total"] * scaled.columns["num_tokens"]
    order = np.argsort(compute, kind="stable")
    names = [name for name in scaled.law.frontier if name in scaled.free]
    moves = {name: 0.0 for name in names}
    deviation = np.sqrt(np.diag(uncertainty.covariance))
    for part in np.array_split(order, 5):
        kept = np.setdiff1d(order, part)
        used = solution.jacobian[np.ix_(kept, free)]
        scale = np.maximum(np.linalg.norm(used, axis=0), 1e-300)
        if len(kept) <= used.shape[1] or np.linalg.matrix_rank(used / scale) < used.shape[1]:
            continue
        step = np.zeros(len(free))
        step[free] = np.linalg.lstsq(used / scale, solution.residual[kept], rcond=None)[0] / scale
        for name in names:
            index = scaled.free.index(name)
            if deviation[index] > 0:
                moves[name] = max(moves[name], float(abs(step[index]) / deviation[index]))
    return moves


def frontier_exponents(
    scaled: ScaledLaw, z: np.ndarray, uncertainty: Uncertainty, parameters: Mapping[str, Estimate]
) -> dict[str, object]:
    """Returns the exponents a and b of compute-optimal parameters and tokens, with intervals (delta in the logit)."""
    if scaled.law.frontier is None:
        return {"a": None, "b": None, "withheld": f"law {scaled.law.id} has no compute-optimal exponents"}
    first, second = scaled.law.frontier
    reason = parameters[first].withheld or parameters[second].withheld
    if reason:
        return {"a": None, "b": None, "withheld": reason}
    values, gradient = [], np.zeros(len(z))
    for name, sign in ((first, -1.0), (second, 1.0)):
        if not isinstance(held := scaled.fixed.get(name, name), str):
            values.append(float(held))
        else:
            value, slope, _ = transformed_gradient(scaled, z, name)
            values.append(value)
            gradient += sign * slope
    a = values[1] / (values[0] + values[1])
    variance, degrees = uncertainty.degrees(gradient)
    low, high = interval(a / (1 - a), float(np.sqrt(variance)), degrees, True)
    low, high = low / (1 + low), high / (1 + high)
    return {
        "a": a,
        "b": 1 - a,
        "a_standard_error": a * (1 - a) * float(np.sqrt(variance)),
        "a_interval_95": [low, high],
        "b_interval_95": [1 - high, 1 - low],
        "withheld": None,
    }
