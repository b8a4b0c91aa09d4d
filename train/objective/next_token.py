"""Language modelling: each position predicts the next token.

B batch, T position, D model width.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.functional import apply_hidden, head
from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.objective.distillation import divergence
from kleiber.train.objective.mean import weighted_mean


def next_token(config: TrainConfig, params: Any, batch: Batch, key: jax.Array | None):
    """Returns (cross entropy of each target, float32 [B, T] in nats; their weights; what training adds; what is
    logged), as kleiber.train.objective.table says. Training adds the z-loss, the losses of the experts' routers, and
    what takes the loss to that of the teacher, if there is one."""
    batch = batch.with_targets()
    x_BTD, routing = apply_hidden(config.model, params, batch.inputs.astype(jnp.int32), batch.segments, key)
    losses_BT, squares_BT, *told = _target_losses(config, params, x_BTD, batch)
    added, logged = config.z_loss * weighted_mean(squares_BT, batch.weights), {}
    if (experts := config.model.experts) and routing:
        added += experts.balance_loss * routing.balance_loss + experts.router_z_loss * routing.z_loss
        logged = {"balance_loss": routing.balance_loss, "dropped_choices": routing.dropped}
    if told and (teacher := config.teacher):  # the loss that is reported stays that of the text
        logged["teacher_divergence"] = weighted_mean(told[0], batch.weights)
        of_teacher = teacher.temperature**2 * logged["teacher_divergence"]
        added += teacher.weight * (of_teacher - weighted_mean(losses_BT, batch.weights))
    return losses_BT, batch.weights, added, logged


def logged_names(config: TrainConfig) -> tuple[str, ...]:
    """Returns the names of what next_token logs in training."""
    of_experts = ("balance_loss", "dropped_choices") if config.model.experts else ()
    return (*of_experts, "teacher_divergence") if config.teacher else of_experts


def _target_losses(config: TrainConfig, params: Any, x_BTD: jax.Array, batch: Batch) -> tuple[jax.Array, ...]:
    """Returns (cross entropy, squared log-normaliser, and where a teacher has told its logits the divergence from it)
    of each target, float32 [B, T]."""

    def of_chunk(x: jax.Array, targets: jax.Array, *told: jax.Array) -> tuple[jax.Array, ...]:
        logits = head(config.model, params, x)
        normalizer = jax.nn.logsumexp(logits, axis=-1)
        target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        losses = normalizer - target, jnp.square(normalizer)
        temperature = config.teacher.temperature if config.teacher else 1.0
        return (*losses, *(divergence(each, logits, temperature) for each in told))

    targets_BT, logit_chunks = batch.targets.astype(jnp.int32), config.loss_blocks
    given = (x_BTD, targets_BT) if batch.teacher_logits is None else (x_BTD, targets_BT, batch.teacher_logits)
    if logit_chunks == 1:
        return of_chunk(*given)

    # Every n-th position makes a chunk, so that a chunk of a split sequence is split as the sequence is.
    def chunks(array: jax.Array) -> jax.Array:
        return jnp.moveaxis(array.reshape(array.shape[0], -1, logit_chunks, *array.shape[2:]), 2, 0)

    recomputed = jax.checkpoint(of_chunk)  # the logits of a chunk are made again in the backward pass
    losses = jax.lax.map(lambda chunk: recomputed(*chunk), tuple(map(chunks, given)))
    return tuple(jnp.moveaxis(part, 0, 2).reshape(targets_BT.shape) for part in losses)
