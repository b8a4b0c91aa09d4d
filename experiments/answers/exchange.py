"""What a factor is worth in another by a fitted law, with its interval."""

from collections.abc import Sequence

import numpy as np

from kleiber.experiments.planning.varied import Factor, is_number
from kleiber.scaling.explaining.elasticity import elasticities, exchange_rate, factors_of, reference_points
from kleiber.scaling.fitting.result import FitResult

UNBOUNDED = 100.0
"""Times or percent beyond which an interval says nothing."""
OF_SIZE = {"d_model": "num_params_total", "num_layers": "num_params_total"}
VARIABLE_OF = {"num_experts": "num_experts_effective", "dtype": "weight_bits", "epochs": "num_unique_tokens"}
"""The law's variable that tells of a field by another name."""


def exchange_lines(fits: Sequence[FitResult], factor: Factor) -> list[str]:
    """Returns what the registered law says of a factor, nothing where it has no such variable.

    Of size and length: by how much one percent more lowers the reducible loss. Of any other number: what its last level
    in place of its first is worth in parameters.
    """
    if not fits:
        return []
    fit, middle = fits[0], reference_points(fits[0])[1]
    name = OF_SIZE.get(factor.name, factor.name)
    if name not in fit.scaled.law.variable_names:
        name = VARIABLE_OF.get(factor.name, name)
    if name not in factors_of(fit):
        return []
    if name in ("num_params_total", "num_tokens"):
        found = next(each for each in elasticities(fit, [middle]) if each.factor == name)
        low, high = found.interval
        more = "parameters" if name == "num_params_total" else "tokens"
        if not max(abs(low), abs(high)) < UNBOUNDED:
            return [f"{factor.name}: law {fit.law} does not pin down what more {more} give in these runs."]
        return [
            f"{factor.name}: 1 % more {more} take {found.value:.2f} % [{low:.2f}, {high:.2f}] off the loss above the "
            f"floor, at the middle of the runs (law {fit.law})."
        ]
    levels = sorted(set(fit.points[name].tolist()))
    if len(levels) < 2 or not all(map(is_number, levels)) or "num_params_total" not in fit.scaled.law.variable_names:
        return []
    try:
        with np.errstate(over="ignore"):
            rate = exchange_rate(fit, {name: levels[-1]}, {**middle, name: levels[0]})
    except ValueError as problem:
        return [f"{factor.name}: law {fit.law} gives no exchange rate ({problem})"]
    if not (rate.interval[0] > 1 / UNBOUNDED and rate.interval[1] < UNBOUNDED):
        return [
            f"{factor.name}: law {fit.law} puts {name} {levels[-1]:g} instead of {levels[0]:g} at {rate.rate:.2g} "
            "times the parameters, and these runs bound that on no side."
        ]
    return [f"{factor.name}: by law {fit.law}, {rate.text}."]
