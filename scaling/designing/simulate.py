"""The simulation twin: every law also makes tables of runs, so that a planned sweep is rehearsed before it is paid for.

A simulated log loss is the law's, plus a shift shared by the points of one trunk, plus run noise, plus the noise of
measuring the loss on a finite validation set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kleiber.scaling.designing.coverage import Coverage, Truth, coverages, refitted
from kleiber.scaling.fitting.noise import RunNoise
from kleiber.scaling.fitting.refit import fit_many
from kleiber.scaling.fitting.scaled_law import make_scaled_law
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import RunTable, from_columns


def simulate_table(
    law: str | Law, constants: Mapping[str, float], design: RunTable | Mapping[str, Any], noise: RunNoise, seed: int
) -> RunTable:
    """Returns the table that a planned design would give if the law were true. Raises ValueError for a constant or
    column that is missing, or a law without a positive loss somewhere.

    Args:
      law: id of a registered law, or a law.
      constants: of the law, in the units of the columns.
      design: the law's variables [runs]; points of equal `trunk_id` share tau, without that column every point is a
        trunk of its own. Other columns are carried along.
      noise: of log losses.
      seed: equal seeds give equal tables.

    Returns:
      The design with `loss`, `trunk_id`, `run_id`, and `loss_standard_error` if evaluation noise is given.
    """
    law = get_law(law)
    table = design if isinstance(design, RunTable) else from_columns(design, "simulated")
    clean = law.at(constants, {name: table[name] for name in law.variable_names})
    if not np.all(clean > 0):
        worst = int(np.argmin(clean))
        raise ValueError(f"law {law.id} gives the loss {clean[worst]:g} at run {worst + 1}; losses must be positive.")
    trunks = table.label("trunk_id") if "trunk_id" in table else np.array([f"trunk-{i}" for i in range(len(table))])
    _, index = np.unique(trunks, return_inverse=True)
    # One stream for each kind of noise: changing one size leaves the draws of the others as they were.
    shared, own, measured = (np.random.default_rng([seed, kind]) for kind in range(3))
    log_loss = np.log(clean) + noise.tau * shared.standard_normal(int(index.max()) + 1)[index]
    log_loss += noise.sigma * own.standard_normal(len(table))
    log_loss += noise.evaluation * measured.standard_normal(len(table))
    columns = {**table.columns, "loss": np.exp(log_loss)}
    if noise.evaluation:
        columns["loss_standard_error"] = noise.evaluation * clean
    runs = np.array([f"run-{i}" for i in range(len(table))])
    labels = {**table.labels, "trunk_id": trunks, "run_id": table.labels.get("run_id", runs)}
    for name in labels:
        columns.pop(name, None)
    return replace(table, columns=columns, labels=labels, notes=(*table.notes, f"simulated from {law.id}, seed {seed}"))


@dataclass(frozen=True)
class Rehearsal:
    """How a planned sweep would come out, over many simulated ones."""

    forecast_error: float
    """Root mean square error of the forecast of the target's mean log loss."""
    coverage: Mapping[str, Coverage]
    """Of each constant, "a" where the law has one, "loss" at the target and "new run"."""
    num_failed: int
    """Simulated sweeps without a finite fit."""


def rehearse(
    law: str | Law,
    constants: Mapping[str, float],
    design: Mapping[str, np.ndarray],
    noise: RunNoise,
    target: Mapping[str, float],
    *,
    trunk: np.ndarray | None = None,
    count: int = 200,
    seed: int = 0,
) -> Rehearsal:
    """Returns how estimates and forecasts of a planned sweep would come out.

    Args:
      law: the truth, which is also the law fitted.
      constants: its constants.
      design: the law's variables [runs].
      noise: of log losses.
      target: the run to forecast.
      trunk: names [runs] of shared trunks; None if each run has its own.
      count: simulated sweeps.
      seed: of the first; sweep k uses seed + k.
    """
    law = get_law(law)
    columns = dict(design) if trunk is None else {**design, "trunk_id": trunk}
    log_losses = np.log([simulate_table(law, constants, columns, noise, seed + k)["loss"] for k in range(count)])
    scaled = make_scaled_law(law, {name: np.asarray(design[name], np.float64) for name in law.variable_names})
    shared = trunk if trunk is not None and len(set(trunk)) < len(trunk) else None
    refits = fit_many(scaled, log_losses, scaled.working(constants)[None], cluster=shared)
    truth = Truth(scaled, constants, target, noise.new_run)
    point = {name: np.array([float(target[name])]) for name in law.variable_names}
    errors = scaled.log_loss(refits.z, point)[:, 0] - truth.log_loss()
    found = coverages(truth, refitted(refits, log_losses, shared), seed=seed)
    return Rehearsal(float(np.sqrt(np.mean(errors**2))), found, refits.num_failed)
