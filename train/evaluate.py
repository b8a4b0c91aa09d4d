"""The loss on the fixed validation windows, with its standard error."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.parallel.rules import constrain
from kleiber.train.config import OptimizerConfig, TrainConfig
from kleiber.train.data.run_data import RunData
from kleiber.train.step import token_losses


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over the validation tokens."""

    loss: float
    """Nats per token."""
    loss_standard_error: float
    """Of the mean over windows as a draw of documents: clustered by document group where groups are known. It is
    common to all runs scored on the same windows, so it moves the level of a law, not its shape."""
    num_tokens: int


@partial(jax.jit, static_argnums=0)
def _window_losses(config: TrainConfig, params: Any, batches: jax.Array, segments: Any) -> jax.Array:
    def one(batch):
        tokens, segments = batch
        return jnp.mean(token_losses(config, params, tokens, segments)[0], axis=-1)

    return constrain(jax.lax.map(one, (batches, segments)).reshape(-1), (None,))


def evaluate(config: TrainConfig, params: Any, data: RunData) -> Evaluation:
    """Returns the validation loss of params.

    Args:
      config: the trunk; evaluation.batch_size sequences go through at once, or as many more as share alike.
      params: parameters of one member.
      data: gives the windows, padded here to a whole number of batches, and their groups.
    """
    windows, segments = data.windows, data.segments
    count, shards = len(windows), config.mesh.num_batch_shards
    size = -(-config.evaluation.batch_size // shards) * shards
    padding = -count % size

    def batched(array):
        padded = np.concatenate([array, np.repeat(array[-1:], padding, axis=0)])
        return padded.reshape(-1, size, array.shape[-1])

    key = _evaluation_key(config)
    losses = _window_losses(key, params, batched(windows), None if segments is None else batched(segments))
    losses = np.asarray(losses, np.float64)[:count]
    return Evaluation(float(losses.mean()), cluster_standard_error(losses, data.groups), count * (windows.shape[1] - 1))


def _evaluation_key(config: TrainConfig) -> TrainConfig:
    """Returns config with everything evaluation does not depend on set alike, so that one shape compiles once."""
    model = replace(config.model, dropout=0.0)
    return TrainConfig(model, OptimizerConfig(1.0), (1,), evaluation=config.evaluation, loss_blocks=config.loss_blocks)


def cluster_standard_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Returns the standard error of mean(values) when values of one group vary together.

    Args:
      values: float64 [n].
      groups: int [n]; all alike or all different both fall back to independent values.

    Source: the cluster-robust variance of a mean, sum over groups of (sum of residuals)^2 / n^2, times G / (G - 1).
    """
    n = len(values)
    if n < 2:
        return float("nan")
    residuals = values - values.mean()
    _, index = np.unique(groups, return_inverse=True)
    num_groups = index.max() + 1
    if num_groups in (1, n):
        return float(values.std(ddof=1) / np.sqrt(n))
    sums = np.bincount(index, weights=residuals)
    return float(np.sqrt(num_groups / (num_groups - 1) * np.sum(sums**2)) / n)
