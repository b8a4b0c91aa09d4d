"""Plausible runs and constants for any law of the registry, so that each one can be tried without a table."""

from collections.abc import Mapping

import numpy as np

from kleiber.scaling.fitting.scaled_law import make_scaled_law
from kleiber.scaling.law import Law

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


def reference_constants(law: Law, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the published constants of a law, or plausible ones for these runs where none are on record.

    Args:
      law: of the registry.
      columns: float64 [runs] by name; plausible constants make each term matter at their geometric mean.
    """
    if law.references:
        return dict(law.references[0].constants)
    scaled = make_scaled_law(law, columns)
    z = np.zeros(len(scaled.free))
    for index, name in enumerate(scaled.free):
        parameter = law[name]
        low, high = parameter.start or (0.5, 2.0)
        middle = np.sqrt(low * high) if low > 0 else 0.5 * (low + high)
        if not law.floor and name in {group[0] for group in law.linear[2:]}:
            middle = 0.3  # such laws take this part off the loss, which must stay positive
        z[index] = np.log(middle) if parameter.transform == "log" else middle
    return {name: float(value) for name, value in scaled.reported(z).items()}


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
