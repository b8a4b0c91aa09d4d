"""The compiled training block: several optimizer steps of one member, or of a population, in one call."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from kleiber.model.functional import apply_hidden, head
from kleiber.parallel.rules import constrain
from kleiber.train.config import TrainConfig, num_micro_batches
from kleiber.train.update import delayed_sync
from kleiber.train.update.delayed_sync import Outer
from kleiber.train.update.guard import LossWindow, choose, empty_log, empty_window, judge
from kleiber.train.update.loss_scale import LossScale, first_scale, next_scale
from kleiber.train.update.optimizer import Optimizer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a step changes. A population has a leading member axis on every leaf; delayed synchronisation has a
    leading replica axis on params, opt_state, window and loss_scale."""

    params: Any
    opt_state: Any
    step: jax.Array
    """int32, optimizer steps done."""
    window: LossWindow | None = None
    """Of the spike rule, when it is on."""
    loss_scale: LossScale | None = None
    """With float16 products only."""
    outer: Outer | None = None
    """The common parameters, with delayed synchronisation only."""


def start_state(config: TrainConfig, optimizer: Optimizer, params: Any) -> TrainState:
    """Returns the state of one member at step 0."""
    scale = first_scale() if config.model.compute_dtype == "float16" else None
    trained = (params, optimizer.init(params), empty_window(config.guard), scale)
    outer = None
    if config.delayed_sync:
        outer = delayed_sync.start(config.delayed_sync, params)
        trained = delayed_sync.spread(config.delayed_sync, trained)
    params, opt_state, window, scale = trained
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32), window, scale, outer)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hyperparameters:
    """What members of one population may differ in without compiling again. float32 scalars, or [members]."""

    learning_rate: jax.Array
    weight_decay: jax.Array


def token_losses(config: TrainConfig, params: Any, tokens_BT1: jax.Array, segments_BT1=None, dropout_key=None):
    """Returns (cross entropy, squared log-normaliser) of each target token, float32 [B, T], nats, and the routing of
    the experts, None without them.

    Args:
      config: the trunk, for its model and its loss_blocks.
      params: parameters.
      tokens_BT1: int [B, T + 1]; inputs are all but the last token, targets all but the first.
      segments_BT1: int [B, T + 1] document of each token, or None when attention crosses documents.
      dropout_key: key when dropout is active, or None.
    """
    tokens_BT1 = tokens_BT1.astype(jnp.int32)
    segments_BT = None if segments_BT1 is None else segments_BT1[:, :-1]
    x_BTD, routing = apply_hidden(config.model, params, tokens_BT1[:, :-1], segments_BT, dropout_key)

    def of_part(x: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = head(config.model, params, x)
        normalizer = jax.nn.logsumexp(logits, axis=-1)
        target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return normalizer - target, jnp.square(normalizer)

    if config.loss_blocks == 1:
        return *of_part(x_BTD, tokens_BT1[:, 1:]), routing

    # Every n-th position makes a part, so that a part of a split sequence is split as the sequence is.
    def parts(array: jax.Array) -> jax.Array:
        return jnp.moveaxis(array.reshape(array.shape[0], -1, config.loss_blocks, *array.shape[2:]), 2, 0)

    recomputed = jax.checkpoint(of_part)  # the logits of a part are made again in the backward pass
    blocks = jax.lax.map(lambda part: recomputed(*part), (parts(x_BTD), parts(tokens_BT1[:, 1:])))
    return *(jnp.moveaxis(b, 0, 2).reshape(x_BTD.shape[:2]) for b in blocks), routing


def _gradients(config: TrainConfig, params: Any, tokens: jax.Array, segments: Any, key: Any, loss_scale: Any):
    """Returns (what is logged, gradients) over a batch, in accumulation_steps micro-batches of equal size."""
    experts = config.model.experts
    factor = 1.0 if loss_scale is None else loss_scale.scale

    def objective(params, tokens, segments, key):
        losses_BT, squares_BT, routing = token_losses(config, params, tokens, segments, key)
        logged = {"loss": jnp.mean(losses_BT)}
        total = logged["loss"] + config.z_loss * jnp.mean(squares_BT)
        if experts is not None:
            total += experts.balance_loss * routing.balance_loss + experts.router_z_loss * routing.z_loss
            logged |= {"balance_loss": routing.balance_loss, "dropped_choices": routing.dropped}
        return total * factor, logged

    grad = jax.grad(objective, has_aux=True)
    parts = config.accumulation_steps or 1

    def accumulated(params, tokens, segments):
        def add(total, part):
            index, tokens, segments = part
            part_key = None if key is None else jax.random.fold_in(key, index)
            return jax.tree.map(jnp.add, total, grad(params, tokens, segments, part_key)), None

        def split(array):  # every n-th row makes a part, so that a split batch stays where it is
            return jnp.swapaxes(array.reshape(-1, parts, *array.shape[1:]), 0, 1)

        names = ("loss", "balance_loss", "dropped_choices") if experts else ("loss",)
        zeros = (jax.tree.map(jnp.zeros_like, params), {name: jnp.zeros((), jnp.float32) for name in names})
        batches = (jnp.arange(parts), split(tokens), None if segments is None else split(segments))
        total, _ = jax.lax.scan(add, zeros, batches)
        return jax.tree.map(lambda x: x / parts, total)

    if parts == 1:
        grads, logged = grad(params, tokens, segments, key)
    elif _is_plain_mean(config, len(tokens)):  # each device adds up its rows, and devices are summed once
        whole, rows = PartitionSpec(), PartitionSpec("data")

        def of_device(params, tokens, segments):
            return jax.lax.pmean(accumulated(params, tokens, segments), "data")

        of_devices = jax.shard_map(of_device, in_specs=(whole, rows, rows), out_specs=whole, check_vma=False)
        grads, logged = of_devices(params, tokens, segments)
    else:
        grads, logged = accumulated(params, tokens, segments)
    if loss_scale is not None:
        grads = jax.tree.map(lambda g: g / factor, grads)
    return logged, grads


def _is_plain_mean(config: TrainConfig, num_rows: int) -> bool:
    """Returns whether devices share the batch and nothing else, each with whole micro-batches of its own rows.

    A step must join rows by a mean alone: no balance of experts, no draw by position, no scale of a whole array.
    """
    mesh, model = jax.sharding.get_abstract_mesh(), config.model
    if mesh.size == 1 or mesh.shape.get("data") != mesh.size or num_rows % (mesh.size * config.accumulation_steps):
        return False
    return not (config.delayed_sync or model.experts or model.dropout or model.has_float8_products)


def _update(config: TrainConfig, optimizer: Optimizer, trained, hyper, tokens, segments, fraction, key):
    """Returns (what is trained, what is logged) after one optimizer step.

    trained: (params, opt_state, window, loss_scale) of one member, and of one replica.
    """
    params, opt_state, window, loss_scale = trained
    logged, grads = _gradients(config, params, tokens, segments, key, loss_scale)
    is_sound, norm, window = judge(config.guard, window, logged["loss"], grads)
    updated = optimizer.update(grads, opt_state, params, hyper.learning_rate * fraction, hyper.weight_decay)
    params, opt_state = choose(is_sound, updated, (params, opt_state))
    if loss_scale is not None:
        loss_scale = next_scale(loss_scale, is_sound)
    return (params, opt_state, window, loss_scale), {**logged, "gradient_norm": norm, "is_skipped": ~is_sound}


def make_block(config: TrainConfig, optimizer: Optimizer, num_members: int = 1, platform: str | None = None):
    """Returns the compiled function that trains up to config.steps_per_call steps.

    The number of steps is a run-time value over a fixed buffer, so one program serves every length and branch of a
    shape. With several members every argument but num_steps carries a leading member axis.

    Args:
      config: the trunk; for a population, any member (they differ in seed and hyper-parameters only).
      optimizer: from make_optimizer.
      num_members: size of the population.
      platform: what it is compiled for; None means this process's devices.

    Returns:
      block(state, hyper, tokens [K, B, T + 1], segments or None, fractions [K], dropout_seed, num_steps)
      -> (state, StepLog). The state passed in is consumed.
    """
    config = replace(config, accumulation_steps=num_micro_batches(config, platform or jax.default_backend()))
    update: Callable[..., Any] = functools.partial(_update, config, optimizer)
    delayed = config.delayed_sync
    if delayed:
        update = delayed_sync.for_each_replica(delayed, update)

    def block(state, hyper, tokens, segments, fractions, dropout_seed, num_steps):
        def one_step(index, carry):
            state, log = carry
            key = None
            if config.model.dropout > 0:
                key = jax.random.fold_in(jax.random.key(dropout_seed), state.step)
            batch_segments = None if segments is None else segments[index]
            trained = (state.params, state.opt_state, state.window, state.loss_scale)
            trained, logged = update(trained, hyper, tokens[index], batch_segments, fractions[index], key)
            params, opt_state, window, loss_scale = trained
            outer, step = state.outer, state.step + 1
            if delayed:
                params, outer = delayed_sync.synchronise_when_due(delayed, params, outer, step)
            log = log.with_step(index, logged)
            return TrainState(params, opt_state, step, window, loss_scale, outer), log

        names = ("balance_loss", "dropped_choices") if config.model.experts else ()
        start = (state, empty_log(fractions.shape[0], names))
        state, log = jax.lax.fori_loop(0, num_steps, one_step, start)
        param_norm = optax.global_norm(state.params).astype(jnp.float32)
        if delayed:
            param_norm = param_norm / delayed.num_replicas**0.5
        log = replace(log, param_norm=param_norm)
        return state, jax.tree.map(lambda leaf: constrain(leaf, (None,) * leaf.ndim), log)

    if num_members > 1:
        block = jax.vmap(block, in_axes=(0, 0, 0, 0, 0, 0, None))
    return jax.jit(block, donate_argnums=0)
