"""Delayed synchronisation: replicas train apart for some steps, then an outer optimizer moves all to one place.

M replicas, H inner steps. Every replica has parameters and optimizer state of its own (a leading axis M, which the mesh
axis `replica` splits) and trains on its part of each batch. After every H steps the outer optimizer takes the distance
from the last common parameters to the mean of the replicas as a gradient, moves the common parameters, and all replicas
go on from there. H = 1 with a plain outer step of 1 is data parallelism when the inner optimizer is SGD.

Sources: local SGD (Stich 2019, arXiv:1805.09767); DiLoCo (Douillard et al. 2023, arXiv:2311.08105), algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kleiber.train.config import DelayedSyncConfig
from kleiber.train.data.batch import Batch


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outer:
    """The common parameters of the last synchronisation, and the state of the outer optimizer; no replica axis."""

    params: Any
    opt_state: Any


def outer_optimizer(config: DelayedSyncConfig) -> optax.GradientTransformation:
    """Returns Nesterov SGD as the config says; without momentum, plain SGD."""
    return optax.sgd(config.outer_learning_rate, config.outer_momentum or None, nesterov=True)


def start(config: DelayedSyncConfig, params: Any) -> Outer:
    """Returns the outer state at the initial parameters."""
    return Outer(jax.tree.map(jnp.asarray, params), outer_optimizer(config).init(params))


def spread(config: DelayedSyncConfig, tree: Any) -> Any:
    """Returns a tree with the replica axis in front of every leaf."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (config.num_replicas, *jnp.shape(leaf))), tree)


def for_each_replica(config: DelayedSyncConfig, update: Callable[..., Any]) -> Callable[..., Any]:
    """Returns update(trained, hyper, batch, fraction, key) with a replica axis on `trained`.

    Each replica takes its part of the batch and a key of its own. What update logs is averaged over the replicas; an
    update counts as applied when every replica applied it.
    """
    num = config.num_replicas

    def all_replicas(trained: Any, hyper: Any, batch: Batch, fraction: Any, key: Any) -> Any:
        keys = None if key is None else jax.random.split(key, num)
        parts = jax.tree.map(lambda array: array.reshape(num, -1, *array.shape[1:]), batch)
        each = jax.vmap(update, in_axes=(0, None, 0, None, None if key is None else 0))
        trained, logged = each(trained, hyper, parts, fraction, keys)
        return trained, {
            name: jnp.any(value, axis=0) if value.dtype == bool else jnp.mean(value, axis=0)
            for name, value in logged.items()
        }

    return all_replicas


def synchronise(config: DelayedSyncConfig, params: Any, outer: Outer) -> tuple[Any, Outer]:
    """Returns (parameters of all replicas, outer state) after one outer step; each leaf of params is [M, ...]."""

    def outer_gradient(common: jax.Array, replicas: jax.Array) -> jax.Array:
        return common - jnp.mean(replicas, axis=0, dtype=jnp.float32).astype(common.dtype)

    gradient = jax.tree.map(outer_gradient, outer.params, params)
    updates, opt_state = outer_optimizer(config).update(gradient, outer.opt_state, outer.params)
    common = optax.apply_updates(outer.params, updates)
    return spread(config, common), Outer(common, opt_state)


def synchronise_when_due(config: DelayedSyncConfig, params: Any, outer: Outer, step: jax.Array) -> tuple[Any, Outer]:
    """Returns what synchronise does after every H-th step, else what was given."""
    is_due = step % config.num_inner_steps == 0
    return jax.lax.cond(is_due, lambda p, o: synchronise(config, p, o), lambda p, o: (p, o), params, outer)


def common_params(config: DelayedSyncConfig, params: Any, outer: Outer, step: int) -> Any:
    """Returns the parameters to measure after `step` steps: the common ones, synchronised first if a part of H is left.

    The run itself goes on as if it had not been measured.
    """
    if step % config.num_inner_steps:
        _, outer = jax.jit(synchronise, static_argnums=0)(config, params, outer)
    return outer.params
