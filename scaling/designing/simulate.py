"""The simulation twin: every law also makes tables of runs, so that a planned sweep is rehearsed before it is paid for.

A simulated log loss is the law's, plus a shift shared by the points of one trunk, plus run noise, plus the noise of
measuring the loss on a finite validation set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kleiber.scaling.designing.coverage import Coverage, Truth, coverages, refitted
from kleiber.scaling.fitting.refit import fit_many
from kleiber.scaling.fitting.scaled_law import make_model
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import RunTable, from_columns

BOUNDED = {
    "flops": (1e12, 1e18),
    "epochs": (1.0, 64.0),
    "bits": (3.0, 16.0),
    "sparsity": (0.05, 0.9),
    "share": (0.05, 0.95),
    "replicas": (1.0, 16.0),
    "experts_effective": (1.0, 64.0),
    "tokens_per_param": (2.0, 2000.0),
    "_loss": (1.5, 6.0),
    "lr_sum": (1.0, 100.0),
    "anneal_area": (0.01, 0.3),
    "vocab_size": (1e3, 1e5),
    "step": (1e3, 2e4),
    "num_steps": (1e4, 2e4),
    "cooldown_start": (2e3, 1.6e4),
    "peak_rate": (3e-4, 3e-3),
    "final_ratio": (0.02, 0.3),
    "cooldown_shape": (0.3, 2.5),
    "warmup_steps": (100.0, 500.0),
    "rank_share": (0.02, 1.0),
    "lora_rank": (1.0, 256.0),
    "granularity": (1.0, 16.0),
}
"""Ranges of variables that are no counts of parameters or tokens, matched by the end of a column's name."""
COUNTED = (1e5, 1e9)
"""Range of every other variable."""


@dataclass(frozen=True)
class RunNoise:
    """Standard deviations of log loss, so 0.005 is half a per cent."""

    sigma: float
    """Of a point by itself: seed, data order."""
    tau: float = 0.0
    """Shared by the points of one trunk (branches of one run, intermediate checkpoints)."""
    evaluation: float = 0.0
    """Of measuring one loss on a finite validation set."""

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.tau >= 0 and self.evaluation >= 0):
            raise ValueError(f"noise needs sigma > 0 and tau, evaluation >= 0, got {self}.")

    @property
    def point(self) -> float:
        """Of one measured point apart from its trunk."""
        return float(np.hypot(self.sigma, self.evaluation))

    @property
    def new_run(self) -> float:
        """Of one new run on a trunk of its own, measured once."""
        return float(np.hypot(self.point, self.tau))


def reference_constants(law: Law, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the published constants of a law, or plausible ones for these runs where none are on record.

    Args:
      law: of the registry.
      columns: float64 [runs] by name; plausible constants make each term matter at their geometric mean.
    """
    if law.references:
        return dict(law.references[0].constants)
    model = make_model(law, columns)
    z = np.zeros(len(model.free))
    for index, name in enumerate(model.free):
        parameter = law[name]
        low, high = parameter.start or (0.5, 2.0)
        middle = np.sqrt(low * high) if low > 0 else 0.5 * (low + high)
        if not law.floor and name in {group[0] for group in law.linear[2:]}:
            middle = 0.3  # such laws take this part off the loss, which must stay positive
        z[index] = np.log(middle) if parameter.transform == "log" else middle
    return {name: float(value) for name, value in model.reported(z).items()}


def even_design(law: Law, num_runs: int = 48) -> dict[str, np.ndarray]:
    """Returns columns [num_runs] that cover the range of each of a law's variables evenly, none in step with another.

    Source: the additive recurrence of Roberts 2018 (generalised golden ratio).
    """
    count = len(law.variables)
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (count + 1))
    steps = root ** -np.arange(1, count + 1)
    unit = (0.5 + np.arange(num_runs)[:, None] * steps) % 1
    columns = {}
    for index, name in enumerate(law.variable_names):
        low, high = next((value for end, value in BOUNDED.items() if name.endswith(end)), COUNTED)
        columns[name] = np.exp(np.log(low) + unit[:, index] * np.log(high / low))
    if {"num_tokens", "num_unique_tokens"} <= set(columns):
        columns["num_unique_tokens"] = np.minimum(columns["num_unique_tokens"], columns["num_tokens"])
    if {"step", "num_steps", "cooldown_start"} <= set(columns):
        columns["cooldown_start"] = np.minimum(columns["cooldown_start"], 0.9 * columns["num_steps"])
        columns["step"] = np.minimum(columns["step"], columns["num_steps"])
        columns["cooldown_shape"] = np.round(columns["cooldown_shape"])
    return columns


def simulate(
    law: str | Law,
    constants: Mapping[str, float],
    design: RunTable | Mapping[str, Any],
    noise: RunNoise,
    seed: int,
) -> RunTable:
    """Returns the table that a planned design would give if the law were true.

    Args:
      law: id of a registered law, or a law.
      constants: of the law, in the units of the columns.
      design: the law's variables [runs]; points of equal `trunk_id` share tau, without that column every point is a
        trunk of its own. Other columns are carried along.
      noise: of log losses.
      seed: equal seeds give equal tables.

    Returns:
      The design with `loss`, `trunk_id`, `run_id`, and `loss_standard_error` if evaluation noise is given.

    Raises:
      ValueError: for a constant or column that is missing, or a law without a positive loss somewhere.
    """
    law = get_law(law) if isinstance(law, str) else law
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
    law = get_law(law) if isinstance(law, str) else law
    columns = dict(design) if trunk is None else {**design, "trunk_id": trunk}
    log_losses = np.log([simulate(law, constants, columns, noise, seed + k)["loss"] for k in range(count)])
    model = make_model(law, {name: np.asarray(design[name], np.float64) for name in law.variable_names})
    shared = trunk if trunk is not None and len(set(trunk)) < len(trunk) else None
    refits = fit_many(model, log_losses, model.working(constants)[None], cluster=shared)
    truth = Truth(model, constants, target, noise.new_run)
    point = {name: np.array([float(target[name])]) for name in law.variable_names}
    errors = model.log_loss(refits.z, point)[:, 0] - truth.log_loss()
    found = coverages(truth, refitted(refits, log_losses, shared), seed=seed)
    return Rehearsal(float(np.sqrt(np.mean(errors**2))), found, refits.num_failed)
