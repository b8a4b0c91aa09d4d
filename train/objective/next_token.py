"""Language modelling: each position predicts the next token.

B batch, T position, D model width.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.functional import apply_hidden, head
from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.objective.mean import weighted_mean


def next_token(config: TrainConfig, params: Any, batch: Batch, key: jax.Array | None):
    """Returns (cross entropy of each target, float32 [B, T] in nats; their weights; what training adds; what is
    logged), as kleiber.train.objective.table says. Training adds the z-loss and the losses of the experts' routers."""
    batch = batch.with_targets()
    x_BTD, routing = apply_hidden(config.model, params, batch.inputs.astype(jnp.int32), batch.segments, key)
    losses_BT, squares_BT = _target_losses(config, params, x_BTD, batch.targets.astype(jnp.int32))
    added, logged = config.z_loss * weighted_mean(squares_BT, batch.weights), {}
    if (experts := config.model.experts) and routing:
        added += experts.balance_loss * routing.balance_loss + experts.router_z_loss * routing.z_loss
        logged = {"balance_loss": routing.balance_loss, "dropped_choices": routing.dropped}
    return losses_BT, batch.weights, added, logged


def logged_names(config: TrainConfig) -> tuple[str, ...]:
    """Returns the names of what next_token logs."""
    return ("balance_loss", "dropped_choices") if config.model.experts else ()


def _target_losses(config: TrainConfig, params: Any, x_BTD: jax.Array, targets_BT: jax.Array):
    """Returns (cross entropy, squared log-normaliser) of each target, float32 [B, T]."""

    def of_chunk(x: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = head(config.model, params, x)
        normalizer = jax.nn.logsumexp(logits, axis=-1)
        target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return normalizer - target, jnp.square(normalizer)

    logit_chunks = config.loss_blocks
    if logit_chunks == 1:
        return of_chunk(x_BTD, targets_BT)

    # Every n-th position makes a chunk, so that a chunk of a split sequence is split as the sequence is.
    def chunks(array: jax.Array) -> jax.Array:
        return jnp.moveaxis(array.reshape(array.shape[0], -1, logit_chunks, *array.shape[2:]), 2, 0)

    recomputed = jax.checkpoint(of_chunk)  # the logits of a chunk are made again in the backward pass
    losses = jax.lax.map(lambda chunk: recomputed(*chunk), (chunks(x_BTD), chunks(targets_BT)))
    return tuple(jnp.moveaxis(part, 0, 2).reshape(targets_BT.shape) for part in losses)
