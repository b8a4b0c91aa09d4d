"""The standard errors to expect of each law asked for, were the experiment's assumed law and noise true."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from kleiber.experiments.directory.record import RunRecord
from kleiber.experiments.experiment import Experiment

STARTS = 2
"""Of the fit that brings a law close to the assumed one, whose losses have no noise."""


def expectation(experiment: Experiment, points: Sequence[RunRecord], targets: Sequence[RunRecord]) -> dict[str, Any]:
    """Returns the standard errors to expect.

    The assumed law is chinchilla's form; another form is first brought as close to it as it gets over the planned
    points, and its errors are those about these constants.

    Returns:
      {"exponents", "forecasts", "laws"}: `laws` has for each law {"constants": {name: standard error}, "forecasts":
      {target: relative standard error of a new run}}, or {"reason"} why nothing can be said; `exponents` (constants
      without a unit) and `forecasts` are those of the first law that has them. Empty without such a law.
    """
    from kleiber.scaling.laws import get_law

    laws = {law: _of_law(law, experiment, points, targets) for law in experiment.laws}
    told = next(((get_law(name), found) for name, found in laws.items() if "constants" in found), None)
    if told is None:
        return {}
    law, first = told
    exponents = {
        p.name: first["constants"][p.name] for p in law.parameters if p.unit == "1" and p.name in first["constants"]
    }
    return {"exponents": exponents, "forecasts": first["forecasts"], "laws": laws}


def _of_law(
    name: str, experiment: Experiment, points: Sequence[RunRecord], targets: Sequence[RunRecord]
) -> dict[str, Any]:
    from kleiber.scaling.designing.design import expected_errors
    from kleiber.scaling.designing.rivals import rivals_from_laws
    from kleiber.scaling.fitting.known import known_from_law
    from kleiber.scaling.fitting.noise import RunNoise
    from kleiber.scaling.laws import get_law

    law, assumed = get_law(name), experiment.assumed
    columns, wanted = _columns(points), _columns(targets)
    further = [variable for variable in law.variable_names if variable not in columns]
    if further or law.quantity != "loss":
        return {"reason": f"the assumed law knows size and tokens alone, not {', '.join(further) or law.quantity}"}
    noise = RunNoise(assumed.point_noise, assumed.trunk_noise)
    true = {each: getattr(assumed, each) for each in ("E", "A", "B", "alpha", "beta")}
    try:
        if name != "chinchilla":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                (close,) = rivals_from_laws(known_from_law("chinchilla", true, noise, columns), (law,), columns, STARTS)
            true = {each: float(value) for each, value in close.scaled.reported(close.z).items()}
        trunk = [point.trunk_id for point in points]
        found = expected_errors(law, true, columns, noise, targets=wanted, trunk=trunk)
    except ValueError as problem:
        return {"reason": str(problem)}
    if found.is_singular:
        return {"reason": "these points cannot tell its constants apart"}
    forecasts = {p.target: float(error) for p, error in zip(targets, found.new_run, strict=True)}
    return {"constants": {each: float(error) for each, error in found.standard_errors.items()}, "forecasts": forecasts}


def _columns(points: Sequence[RunRecord]) -> dict[str, np.ndarray]:
    """Returns what the assumed law lets vary, float64 [points] each."""
    names = {
        "num_params_total": "num_params_total",
        "num_tokens": "num_tokens",
        "tokens_per_param": "tokens_per_parameter",
        "flops": "flops",
    }
    return {ours: np.array([getattr(point, name) for point in points], np.float64) for ours, name in names.items()}
