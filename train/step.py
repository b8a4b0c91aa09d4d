"""The compiled steps: several optimizer steps of one member, or of a population, in one call."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kleiber.parallel.rules import constrain
from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.gradients import gradients
from kleiber.train.micro_batches import num_micro_batches
from kleiber.train.objective import penalty
from kleiber.train.objective.distillation import taught
from kleiber.train.objective.table import OBJECTIVES
from kleiber.train.state import Hyperparameters, TrainState
from kleiber.train.trained import join, separate
from kleiber.train.update import delayed_sync, noise_scale
from kleiber.train.update.guard import choose, empty_log, judge
from kleiber.train.update.loss_scale import next_scale
from kleiber.train.update.optimizer import Optimizer


def _update(config: TrainConfig, optimizer: Optimizer, anchor, trained, hyper, batch: Batch, fraction, key):
    """Returns (what is trained, what is logged) after one optimizer step.

    trained: (params, opt_state, window, loss_scale) of one member, and of one replica.
    """
    params, opt_state, window, loss_scale = trained
    scale = None if loss_scale is None else loss_scale.scale
    logged, grads = gradients(config, params, batch, key, scale, anchor)
    is_sound, norm, window = judge(config.guard, window, logged["loss"], grads)
    moving, staying = separate(config, params)
    updated = optimizer.update(grads, opt_state, moving, hyper.learning_rate * fraction, hyper.weight_decay)
    moving, opt_state = choose(is_sound, updated, (moving, opt_state))
    params = join(moving, staying)
    if loss_scale is not None:
        loss_scale = next_scale(loss_scale, is_sound)
    return (params, opt_state, window, loss_scale), {**logged, "gradient_norm": norm, "is_skipped": ~is_sound}


def compile_steps(config: TrainConfig, optimizer: Optimizer, num_members: int = 1, platform: str | None = None):
    """Returns the compiled function that trains up to config.steps_per_call steps.

    The number of steps is a run-time value over a fixed buffer, so one program serves every length and branch of a
    shape. With several members every argument but num_steps, teacher and anchor carries a leading member axis.

    Args:
      config: the trunk; for a population, any member (they differ in seed and hyper-parameters only).
      optimizer: from make_optimizer.
      num_members: size of the population.
      platform: what it is compiled for; None means this process's devices. ValueError if it lacks a forced kernel.

    Returns:
      steps(state, hyper, batches, fractions [K], dropout_seed, num_steps, teacher, anchor) -> (state, StepLog), with
      batches a Batch of leaves [K, B, ...], teacher the weights of the one that config names, anchor what its ewc holds
      weights to. The state passed in is consumed.
    """
    platform = platform or jax.default_backend()
    model, parts = config.model.on_platform(platform), num_micro_batches(config, platform)
    config = replace(config, model=model, accumulation_steps=parts)
    shape_of_teacher = config.teacher.shape.on_platform(platform) if config.teacher else None
    objective, delayed = OBJECTIVES[config.objective], config.delayed_sync

    def steps(state: TrainState, hyper: Hyperparameters, batches: Batch, fractions, dropout_seed, num_steps,
              teacher=None, anchor=None):  # fmt: skip
        update: Callable[..., Any] = functools.partial(_update, config, optimizer, anchor)
        if delayed:
            update = delayed_sync.for_each_replica(delayed, update)

        def one_step(index, carry):
            state, log = carry
            key = jax.random.fold_in(jax.random.key(dropout_seed), state.step)
            batch = jax.tree.map(lambda leaf: leaf[index], batches)
            batch = taught(shape_of_teacher, objective.batch(config, batch, jax.random.fold_in(key, 1)), teacher)
            trained = (state.params, state.opt_state, state.window, state.loss_scale)
            trained, logged = update(trained, hyper, batch, fractions[index], key if config.model.dropout > 0 else None)
            params, opt_state, window, loss_scale = trained
            outer, step = state.outer, state.step + 1
            if delayed:
                params, outer = delayed_sync.synchronise_when_due(delayed, params, outer, step)
            log = log.with_step(index, logged)
            return TrainState(params, opt_state, step, window, loss_scale, outer), log

        logged = (*objective.logged(config), *noise_scale.logged_names(config), *penalty.logged_names(config))
        start = (state, empty_log(fractions.shape[0], logged))
        state, log = jax.lax.fori_loop(0, num_steps, one_step, start)
        param_norm = optax.global_norm(state.params).astype(jnp.float32)
        if delayed:
            param_norm = param_norm / delayed.num_replicas**0.5
        log = replace(log, param_norm=param_norm)
        return state, jax.tree.map(lambda leaf: constrain(leaf, (None,) * leaf.ndim), log)

    if num_members > 1:

        def of_members(*given, **held):
            return jax.vmap(functools.partial(steps, **held), in_axes=(0, 0, 0, 0, 0, None))(*given)

        return jax.jit(of_members, donate_argnums=0)
    return jax.jit(steps, donate_argnums=0)
