"""What the matrices of a trunk read of its own training text, for compression that keeps what they give."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.calibration import second_moments
from kleiber.train.config import OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.objective.table import OBJECTIVES

CALIBRATION_TOKENS = 16_384
"""Of the first training windows, or as many as there were."""


def calibration_steps(config: TrainConfig) -> int:
    """Returns how many of the first batches of a trunk are read. Raises ValueError: fewer tokens than four times the
    widest input of a matrix, of which a second moment says little."""
    wanted = -(-CALIBRATION_TOKENS // config.tokens_per_step)
    steps = min(wanted, config.steps_at(config.num_tokens[0]))
    widest = max(inputs for inputs, _ in config.model.matrix_shapes().values())
    if steps * config.tokens_per_step < 4 * widest:
        raise ValueError(
            f"{steps * config.tokens_per_step:,} training tokens for inputs of {widest}, expected at least "
            f"{4 * widest:,}: too few to measure what a matrix reads; train on more, or set approximation='plain'."
        )
    return steps


def calibrate(config: TrainConfig, params: Any, batches: Batch) -> dict[str, jax.Array]:
    """Returns the second moments of the inputs of all matrices (model/calibration.py) over batches [K, B, ...]."""
    kept = {name: getattr(config, name) for name in ("objective", "masking")}
    model = replace(config.model, dropout=0.0)
    alike = TrainConfig(model, OptimizerConfig(1.0), (1,), compressed_from="end", **kept)  # a shape compiles once
    return _moments(alike, params, batches)


@partial(jax.jit, static_argnums=0)
def _moments(config: TrainConfig, params: Any, batches: Batch) -> dict[str, jax.Array]:
    objective = OBJECTIVES[config.objective]

    def one(batch: Batch) -> dict[str, jax.Array]:
        batch = objective.batch(config, batch, None).with_targets()
        return second_moments(config.model, params, batch.inputs.astype(jnp.int32), batch.segments)

    return jax.tree.map(lambda each: jnp.mean(each, axis=0), jax.lax.map(one, batches))
