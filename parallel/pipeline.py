"""Layers run one after another: scanned, or as a pipeline of stages over microbatches when the mesh has stages.

S stages, M microbatches. A buffer holds what each stage works on, x[S_stage, ...]; at every tick each stage runs its
layers on its row and hands it to the next, one collective permute. After M + S - 1 ticks all microbatches are through;
(S - 1) / (M + S - 1) of the ticks are the bubble. Source: GPipe (Huang et al. 2019, arXiv:1811.06965); as one program
over a sharded buffer, GSPMD (Xu et al. 2021, arXiv:2105.04663), section 3.3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.parallel.config import MeshConfig
from kleiber.parallel.rules import constrain

LayerFn = Callable[..., tuple[jax.Array, Any]]
"""(weights of one layer, its number, x, what else a microbatch carries) -> (x, statistics or None)."""


def run_layers(layer: LayerFn, stacked: Any, x: jax.Array, carried: Any) -> tuple[jax.Array, Any]:
    """Returns x after all layers, and the statistics of the layers, summed over them and averaged over microbatches.
    Raises ValueError if the stages do not divide the layers.

    Args:
      layer: one layer as a pure function; its statistics must be means over the batch.
      stacked: weights, each [layers, ...].
      x: [B, ...], the batch.
      carried: tree of [B, ...] that every layer reads, such as segment ids; None leaves are allowed.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = MeshConfig() if mesh.empty else MeshConfig(**mesh.shape)
    numbers = jnp.arange(len(jax.tree.leaves(stacked)[0]))
    if sizes.stage == 1:
        return _scan(layer, stacked, numbers, x, carried)
    return _pipeline(layer, stacked, numbers, x, carried, sizes)


def _scan(layer: LayerFn, stacked: Any, numbers: jax.Array, x: jax.Array, carried: Any) -> tuple[jax.Array, Any]:
    def body(x: jax.Array, one: tuple) -> tuple[jax.Array, Any]:
        weights, number = one
        return layer(weights, number, x, carried)

    x, stats = jax.lax.scan(body, x, (stacked, numbers))
    return x, jax.tree.map(lambda s: jnp.sum(s, axis=0), stats)


def _pipeline(layer: LayerFn, stacked: Any, numbers: jax.Array, x: jax.Array, carried: Any, sizes: MeshConfig):
    num_layers, batch, num_stages = len(numbers), len(x), sizes.stage
    num_microbatches = sizes.num_microbatches(batch)
    if num_layers % num_stages:
        raise ValueError(f"{num_layers} layers do not divide over mesh axis 'stage' of {num_stages}.")

    def split(array: jax.Array) -> jax.Array:  # [B, ...] -> [M, B / M, ...], each device keeping its own rows
        parts = array.reshape(batch // num_microbatches, num_microbatches, *array.shape[1:])
        return jnp.moveaxis(parts, 1, 0)

    def by_stage(array: jax.Array) -> jax.Array:
        return array.reshape(num_stages, num_layers // num_stages, *array.shape[1:])

    inputs = jax.tree.map(split, (x, carried))
    stages = (jax.tree.map(by_stage, stacked), by_stage(numbers))
    buffer = jax.tree.map(lambda a: _staged(jnp.zeros((num_stages, *a.shape[1:]), a.dtype)), inputs)
    # Named, so that what maps its own mesh axes (parallel.rules.on_own_parts) keeps each stage where it is. The ring
    # over `context` maps one of its own and none else, and does not take the name.
    name = "stage" if sizes.context == 1 else None
    run_stages = jax.vmap(lambda stage, row: _scan(layer, *stage, *row), spmd_axis_name=name)
    rows = jnp.arange(num_stages)

    def tick(buffer: Any, time: jax.Array) -> tuple[Any, Any]:
        entering = jax.tree.map(lambda a: a[jnp.minimum(time, num_microbatches - 1)], inputs)
        buffer = jax.tree.map(lambda old, new: _staged(jnp.roll(old, 1, axis=0).at[0].set(new)), buffer, entering)
        x, stats = run_stages(stages, buffer)
        is_real = (time >= rows) & (time < rows + num_microbatches)  # the rest is the bubble
        stats = jax.tree.map(lambda s: jnp.tensordot(is_real.astype(s.dtype), s, 1), stats)
        return (_staged(x), buffer[1]), (x[-1], stats)

    _, (outputs, stats) = jax.lax.scan(tick, buffer, jnp.arange(num_microbatches + num_stages - 1))
    outputs = jnp.moveaxis(outputs[num_stages - 1 :], 0, 1).reshape(x.shape)
    return outputs, jax.tree.map(lambda s: jnp.sum(s, axis=0) / num_microbatches, stats)


def _staged(row: jax.Array) -> jax.Array:
    return constrain(row, ("stages", "batch", "seq", None)[: row.ndim])
