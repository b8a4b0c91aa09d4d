"""Gradients over a batch: in one piece, in micro-batches, on devices that share it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.objective.mean import weighted_mean
from kleiber.train.objective.penalty import with_penalties
from kleiber.train.objective.table import OBJECTIVES
from kleiber.train.trained import join, separate
from kleiber.train.update.noise_scale import NOISE, logged_names, noise_and_signal, squared_norm


def gradients(
    config: TrainConfig,
    params: Any,
    batch: Batch,
    key: jax.Array | None,
    scale: jax.Array | None = None,
    anchor: Any = None,
):
    """Returns (what is logged, gradients) of the mean over the targets of a batch, in accumulation_steps micro-batches,
    and of what training adds of the weights alone; a weight that stays has None for a gradient.

    Args:
      config: the trunk; accumulation_steps None is one.
      params: parameters.
      batch: B rows, a multiple of the micro-batches.
      key: of what is drawn, or None.
      scale: factor on the loss while it is derived, taken off the gradients again; None for none.
      anchor: what ewc holds the weights to, as anchor_of returns it.
    """
    factor = 1.0 if scale is None else scale
    objective, parts = OBJECTIVES[config.objective], config.accumulation_steps or 1
    is_weighted = objective.has_weights or batch.weights is not None

    def trained_on(moving: Any, staying: Any, batch: Batch, key: jax.Array | None):
        losses, weights, added, logged = objective.losses(config, join(moving, staying), batch, key)
        loss = weighted_mean(losses, weights)
        return (loss + added) * factor, ({"loss": loss, **logged}, weights)

    def of_part(params: Any, batch: Batch, key: jax.Array | None):
        """Returns the sums that micro-batches add up to: (gradients, logged, weight), the first two times the third."""
        grads, (logged, weights) = jax.grad(trained_on, has_aux=True)(*separate(config, params), batch, key)
        if config.measures_noise_scale:
            logged |= {NOISE: squared_norm(grads)}
        if not is_weighted:
            return grads, logged, None
        weight = jnp.sum(weights)
        return *jax.tree.map(lambda x: x * weight.astype(x.dtype), (grads, logged)), weight

    def sum_of_parts(params: Any, batch: Batch):
        def add(total: Any, part: Any):
            index, rows = part
            part_key = None if key is None else jax.random.fold_in(key, index)
            return jax.tree.map(jnp.add, total, of_part(params, rows, part_key)), None

        def split(array: jax.Array) -> jax.Array:  # every n-th row makes a part, so a split batch stays where it is
            return jnp.swapaxes(array.reshape(-1, parts, *array.shape[1:]), 0, 1)

        zero = jnp.zeros((), jnp.float32)
        logged = {name: zero for name in ("loss", *objective.logged(config), *logged_names(config)[:1])}
        zeros = (jax.tree.map(jnp.zeros_like, separate(config, params)[0]), logged, zero if is_weighted else None)
        return jax.lax.scan(add, zeros, (jnp.arange(parts), jax.tree.map(split, batch)))[0]

    def mean_of(sums: Any):
        grads, logged, weight = sums
        if weight is None and parts == 1:
            return grads, logged
        return jax.tree.map(lambda x: x / (parts if weight is None else weight.astype(x.dtype)), (grads, logged))

    is_plain_mean = _is_plain_mean(config, batch)
    if is_plain_mean:  # each device adds up its rows, and devices are summed once
        whole, rows = PartitionSpec(), PartitionSpec("data")

        def of_device(params: Any, batch: Batch):
            sums = sum_of_parts(params, batch)
            if is_weighted:
                return mean_of(jax.lax.psum(sums, "data"))
            return jax.lax.pmean(mean_of(sums), "data")

        of_devices = jax.shard_map(of_device, in_specs=(whole, rows), out_specs=whole, check_vma=False)
        grads, logged = of_devices(params, batch)
    else:
        grads, logged = mean_of(of_part(params, batch, key) if parts == 1 else sum_of_parts(params, batch))
    if config.measures_noise_scale:
        num_parts = parts * (jax.sharding.get_abstract_mesh().size if is_plain_mean else 1)
        logged |= noise_and_signal(logged[NOISE], grads, len(jax.tree.leaves(batch)[0]), num_parts)
        if scale is not None:
            logged |= {name: logged[name] / jnp.square(scale) for name in logged_names(config)}
    grads = grads if scale is None else jax.tree.map(lambda g: g / scale, grads)
    return with_penalties(config, params, anchor, logged, grads)


def _is_plain_mean(config: TrainConfig, batch: Batch) -> bool:
    """Returns whether devices share the batch and nothing else, each with whole micro-batches of its own rows.

    A step must join rows by a mean alone: no balance of experts, no draw by position, no scale of a whole array.
    """
    mesh, model, parts = jax.sharding.get_abstract_mesh(), config.model, config.accumulation_steps or 1
    if parts == 1 or mesh.size == 1 or mesh.shape.get("data") != mesh.size:
        return False
    if len(jax.tree.leaves(batch)[0]) % (mesh.size * parts):
        return False
    return not (config.delayed_sync or model.experts or model.dropout or model.has_float8_products)
