"""The compiled training block: several optimizer steps of one member, or of a population, in one call."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kleiber.model.functional import apply
from kleiber.train.config import TrainConfig
from kleiber.train.guard import LossWindow, choose, empty_log, judge
from kleiber.train.optimizer import Optimizer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a step changes. A population has a leading member axis on every leaf."""

    params: Any
    opt_state: Any
    step: jax.Array
    """int32, optimizer steps done."""
    window: LossWindow | None = None
    """Of the spike rule, when it is on."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hyperparameters:
    """What members of one population may differ in without compiling again. float32 scalars, or [members]."""

    learning_rate: jax.Array
    weight_decay: jax.Array


def token_losses(config: TrainConfig, params: Any, tokens_BT1: jax.Array, segments_BT1=None, dropout_key=None):
    """Returns cross entropy and squared log-normaliser of each target token, float32 [B, T], nats.

    Args:
      config: the trunk, for its model.
      params: parameters.
      tokens_BT1: int [B, T + 1]; inputs are all but the last token, targets all but the first.
      segments_BT1: int [B, T + 1] document of each token, or None when attention crosses documents.
      dropout_key: key when dropout is active, or None.
    """
    tokens_BT1 = tokens_BT1.astype(jnp.int32)
    segments_BT = None if segments_BT1 is None else segments_BT1[:, :-1]
    logits_BTV = apply(config.model, params, tokens_BT1[:, :-1], segments_BT, dropout_key)
    normalizer_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, tokens_BT1[:, 1:, None], axis=-1)[..., 0]
    return normalizer_BT - target_BT, jnp.square(normalizer_BT)


def _gradients(config: TrainConfig, params: Any, tokens: jax.Array, segments: Any, key: Any):
    """Returns (mean loss, gradients) over a batch, in accumulation_steps micro-batches of equal size."""

    def objective(params, tokens, segments, key):
        losses_BT, squares_BT = token_losses(config, params, tokens, segments, key)
        loss = jnp.mean(losses_BT)
        return loss + config.z_loss * jnp.mean(squares_BT), loss

    grad = jax.grad(objective, has_aux=True)
    parts = config.accumulation_steps
    if parts == 1:
        grads, loss = grad(params, tokens, segments, key)
        return loss, grads

    def add(total, part):
        index, tokens, segments = part
        part_key = None if key is None else jax.random.fold_in(key, index)
        grads, loss = grad(params, tokens, segments, part_key)
        return jax.tree.map(jnp.add, total, (loss, grads)), None

    def split(array):
        return array.reshape(parts, array.shape[0] // parts, *array.shape[1:])

    zeros = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, params))
    batches = (jnp.arange(parts), split(tokens), None if segments is None else split(segments))
    total, _ = jax.lax.scan(add, zeros, batches)
    return jax.tree.map(lambda x: x / parts, total)


def make_block(config: TrainConfig, optimizer: Optimizer, num_members: int = 1):
    """Returns the compiled function that trains up to config.steps_per_call steps.

    The number of steps is a run-time value over a fixed buffer, so one program serves every length and branch of a
    shape. With several members every argument but num_steps carries a leading member axis.

    Args:
      config: the trunk; for a population, any member (they differ in seed and hyper-parameters only).
      optimizer: from make_optimizer.
      num_members: size of the population.

    Returns:
      block(state, hyper, tokens [K, B, T + 1], segments or None, fractions [K], dropout_seed, num_steps)
      -> (state, StepLog). The state passed in is consumed.
    """

    def block(state, hyper, tokens, segments, fractions, dropout_seed, num_steps):
        def one_step(index, carry):
            state, log = carry
            key = None
            if config.model.dropout > 0:
                key = jax.random.fold_in(jax.random.key(dropout_seed), state.step)
            batch_segments = None if segments is None else segments[index]
            loss, grads = _gradients(config, state.params, tokens[index], batch_segments, key)
            rate = hyper.learning_rate * fractions[index]
            is_sound, norm, window = judge(config.guard, state.window, loss, grads)
            updated = optimizer.update(grads, state.opt_state, state.params, rate, hyper.weight_decay)
            params, opt_state = choose(is_sound, updated, (state.params, state.opt_state))
            log = replace(
                log,
                losses=log.losses.at[index].set(loss),
                gradient_norms=log.gradient_norms.at[index].set(norm),
                is_skipped=log.is_skipped.at[index].set(~is_sound),
            )
            return TrainState(params, opt_state, state.step + 1, window), log

        start = (state, empty_log(fractions.shape[0], jnp.zeros((), jnp.float32)))
        state, log = jax.lax.fori_loop(0, num_steps, one_step, start)
        return state, replace(log, param_norm=optax.global_norm(state.params).astype(jnp.float32))

    if num_members > 1:
        block = jax.vmap(block, in_axes=(0, 0, 0, 0, 0, 0, None))
    return jax.jit(block, donate_argnums=0)
