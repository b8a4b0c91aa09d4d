"""The loss on the fixed validation windows, with its standard error."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.parallel.rules import constrain
from kleiber.train.config import OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.run_data import HeldOut
from kleiber.train.objective.mean import weighted_mean
from kleiber.train.objective.table import OBJECTIVES


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over the validation tokens."""

    loss: float
    """Nats per token."""
    bits_per_byte: float | None
    """Of the validation text; None where the losses are not those of telling it."""
    loss_standard_error: float
    """Of the mean over windows as a draw of documents: clustered by document group where groups are known. It is
    common to all runs scored on the same windows, so it moves the level of a law, not its shape."""
    num_tokens: int
    """Targets that count."""


@partial(jax.jit, static_argnums=0)
def _window_losses(config: TrainConfig, params: Any, batches: Batch) -> tuple[jax.Array, jax.Array | None]:
    """Returns the mean loss of each row of batches [n, B, ...], float32 [n B], and its weight, None for all alike."""

    objective = OBJECTIVES[config.objective]

    def one(batch: Batch):
        losses, weights, _, _ = objective.losses(config, params, objective.batch(config, batch, None), None)
        return weighted_mean(losses, weights, axis=-1), None if weights is None else jnp.sum(weights, axis=-1)

    return jax.tree.map(lambda rows: constrain(rows.reshape(-1), (None,)), jax.lax.map(one, batches))


def evaluate(config: TrainConfig, params: Any, data: HeldOut) -> Evaluation:
    """Returns the validation loss of params.

    Args:
      config: the trunk; evaluation.batch_size sequences go through at once, or as many more as share alike.
      params: parameters of one member.
      data: gives the windows, padded here to a whole number of batches, and their groups.
    """
    count, shards = len(data.windows), config.mesh.num_batch_shards
    size = -(-config.evaluation.batch_size // shards) * shards
    padding = -count % size

    def batched(array: np.ndarray) -> np.ndarray:
        padded = np.concatenate([array, np.repeat(array[-1:], padding, axis=0)])
        return padded.reshape(-1, size, *array.shape[1:])

    batches = jax.tree.map(batched, data.rows)
    losses, weights = _window_losses(_evaluation_key(config), params, batches)
    losses = np.asarray(losses, np.float64)[:count]
    num_tokens = data.rows.with_targets().targets.size
    if weights is not None:  # the terms of the ratio sum(weight * loss) / sum(weight), whose mean is the ratio itself
        share = np.asarray(weights, np.float64)[:count]
        num_tokens = round(float(share.sum()))
        share /= share.mean()
        mean = np.mean(share * losses)
        losses = mean + share * (losses - mean)
    loss, error = float(losses.mean()), cluster_standard_error(losses, data.groups)
    in_bytes = data.bits_per_byte(loss) if OBJECTIVES[config.objective].is_code_length else None
    return Evaluation(loss, in_bytes, error, num_tokens)


def token_losses(
    config: TrainConfig, params: Any, tokens: np.ndarray, segments: np.ndarray | None = None
) -> np.ndarray:
    """Returns the loss of every token but the first, float64 [n - 1] in nats: each reads what stands before it in its
    window of seq_len, as in training.

    Args:
      config: the trunk.
      params: parameters of one member.
      tokens: int [n], of any length from 2.
      segments: int [n], document of each token, where attention stops at document boundaries.
    """
    count, length = len(tokens) - 1, config.model.seq_len
    rows = -(-count // length)
    positions = np.arange(rows)[:, None] * length + np.arange(length + 1)
    positions = np.minimum(positions, count)  # the last token again, behind all that is counted
    kept = None if segments is None else segments[positions]
    return _row_losses(config, params, tokens[positions].astype(np.int32), kept).reshape(-1)[:count]


def summed_losses(config: TrainConfig, params: Any, rows: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Returns the summed loss of the targets of each row that count, float64 [n] in nats.

    Args:
      config: the trunk.
      params: parameters of one member.
      rows: int32 [n, seq_len + 1], one document each.
      counted: float [n, seq_len], 1 for a target that counts.
    """
    return (_row_losses(config, params, rows, None) * counted).sum(axis=1)


def _row_losses(config: TrainConfig, params: Any, rows: np.ndarray, segments: np.ndarray | None) -> np.ndarray:
    """Returns the loss of every target of rows [n, T + 1], float64 [n, T], evaluation.batch_size rows at a time."""
    key, losses, size = _evaluation_key(config), [], config.evaluation.batch_size
    for start in range(0, len(rows), size):
        index = np.minimum(np.arange(start, start + size), len(rows) - 1)
        batch = Batch(rows[index], segments=None if segments is None else segments[index])
        losses.append(np.asarray(_losses_of_batch(key, params, batch), np.float64))
    return np.concatenate(losses)[: len(rows)]


@partial(jax.jit, static_argnums=0)
def _losses_of_batch(config: TrainConfig, params: Any, batch: Batch) -> jax.Array:
    return constrain(OBJECTIVES[config.objective].losses(config, params, batch, None)[0], (None, None))


def _evaluation_key(config: TrainConfig) -> TrainConfig:
    """Returns config with everything evaluation does not depend on set alike, so that one shape compiles once."""
    model = replace(config.model, dropout=0.0)
    kept = {name: getattr(config, name) for name in ("evaluation", "loss_blocks", "objective", "masking")}
    return TrainConfig(model, OptimizerConfig(1.0), (1,), compressed_from="end", **kept)


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
