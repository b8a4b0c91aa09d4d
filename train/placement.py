"""Where the state of a run lives: the sharding of every array, from the logical axes of the weights alone.

Optimizer moments lie as their weights do (the path of a moment ends with the path of its weight), everything else is
on every device.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from kleiber.model.config import ModelConfig
from kleiber.model.functional import abstract_params, init_params_on_device, logical_axes
from kleiber.parallel.rules import place, sharding
from kleiber.train.beginning import first_weights
from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.fisher import fisher_of_start
from kleiber.train.state import TrainState, start_state
from kleiber.train.update.optimizer import Optimizer


def leading_axes(config: TrainConfig, num_members: int) -> tuple[str, ...]:
    """Returns the logical axes in front of those of one member's weights."""
    return ("members",) * (num_members > 1) + ("replicas",) * (config.delayed_sync is not None)


def abstract_state(config: TrainConfig, optimizer: Optimizer, num_members: int = 1) -> TrainState:
    """Returns the state of a run as jax.ShapeDtypeStruct, without making any array."""
    params = abstract_params(config.model)
    if num_members > 1:
        params = jax.tree.map(lambda p: jax.ShapeDtypeStruct((num_members, *p.shape), p.dtype), params)
    return jax.eval_shape(_start(config, optimizer, num_members), params)


def _start(config: TrainConfig, optimizer: Optimizer, num_members: int) -> Callable[[Any], TrainState]:
    one = functools.partial(start_state, config, optimizer)
    return jax.vmap(one) if num_members > 1 else one


def state_shardings(config: TrainConfig, mesh: Mesh, state: TrainState, num_members: int = 1) -> TrainState:
    """Returns the sharding of every array of a state.

    Args:
      config: gives the logical axes of the weights.
      mesh: as make_mesh returns.
      state: arrays or shapes, as abstract_state returns.
      num_members: size of the population.

    Raises:
      ValueError: if a dimension does not divide over its mesh axis; names array, dimension, size and axis.
    """
    axes_of_path = {
        tuple(key.key for key in path): axes
        for path, axes in jax.tree_util.tree_leaves_with_path(
            logical_axes(config.model), is_leaf=lambda x: isinstance(x, tuple)
        )
    }
    leading = leading_axes(config, num_members)

    def of_leaf(path: tuple, leaf: Any) -> NamedSharding:
        keys = tuple(getattr(key, "key", None) for key in path)
        axes = next((axes_of_path[keys[n:]] for n in range(len(keys)) if keys[n:] in axes_of_path), ())
        front = ("members",) * (num_members > 1) if path[0].name == "outer" else leading
        if len(axes) + len(front) != len(leaf.shape):  # not a moment: a count, a window, a factored moment
            axes = (None,) * (len(leaf.shape) - len(front)) if len(leaf.shape) >= len(front) else ()
            front = front[: len(leaf.shape)]
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return sharding(mesh, (*front, *axes), tuple(leaf.shape), name=name)

    return jax.tree_util.tree_map_with_path(of_leaf, state)


def anchor_of(config: TrainConfig, mesh: Mesh, start: Path | None, tokenizer_model: bytes = b"") -> Any:
    """Returns (the weights of a run's start, their Fisher diagonal) on a mesh, which ewc holds its weights to; None
    without."""
    if config.ewc is None:
        return None
    params = first_weights(config, start, tokenizer_model)
    return tuple(place_params(config.model, mesh, each) for each in (params, fisher_of_start(config, params)))


def place_params(model: ModelConfig, mesh: Mesh, params: Any) -> Any:
    """Returns the weights of a model, host arrays, on a mesh as training lays them there."""
    axes = logical_axes(model)
    return place(params, jax.tree.map(lambda p, names: sharding(mesh, names, p.shape), params, axes))


def abstract_held(config: TrainConfig, mesh: Mesh) -> tuple[Any, Any]:
    """Returns (weights of a trunk's teacher, anchor of its ewc) as jax.ShapeDtypeStruct, placed on the mesh; None where
    it has none."""
    teacher = _abstract_placed(config.teacher.shape, mesh) if config.teacher else None
    return teacher, (_abstract_placed(config.model, mesh),) * 2 if config.ewc else None


def _abstract_placed(model: ModelConfig, mesh: Mesh) -> Any:
    """Returns the weights of a model as jax.ShapeDtypeStruct, placed on the mesh."""

    def placed(weight: jax.ShapeDtypeStruct, axes: tuple[str | None, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(weight.shape, weight.dtype, sharding=sharding(mesh, axes, weight.shape))

    return jax.tree.map(placed, abstract_params(model), logical_axes(model))


def initial_state(
    members: Sequence[TrainConfig],
    optimizer: Optimizer,
    mesh: Mesh,
    weights: Path | None = None,
    tokenizer_model: bytes = b"",
) -> TrainState:
    """Returns the state at step 0 on the mesh; no device ever holds more than its part.

    Args:
      members: configs of the members; the first gives everything but the seeds.
      optimizer: from make_optimizer.
      mesh: as make_mesh returns.
      weights: where those of their start lie.
      tokenizer_model: that the text is encoded with.
    """
    config, num = members[0], len(members)
    shardings = state_shardings(config, mesh, abstract_state(config, optimizer, num), num)
    start = _start(config, optimizer, num)
    if config.initialisation == "device":

        def draw(seeds: Any) -> TrainState:
            keys = jax.vmap(jax.random.key)(seeds)
            one = functools.partial(init_params_on_device, config.model)
            return start(jax.vmap(one)(keys) if num > 1 else one(keys[0]))

        seeds = np.array([member.seed for member in members], np.uint32)
        return jax.jit(draw, out_shardings=shardings)(seeds)
    drawn = [first_weights(member, weights, tokenizer_model) for member in members]
    params = drawn[0] if num == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    if mesh.size == 1:  # nothing to compile for
        return jax.device_put(start(jax.tree.map(jnp.asarray, params)), shardings)
    # The weights of one replica, split as they will be, then the rest of the state where it belongs.
    one_replica = state_shardings(config, mesh, TrainState(params, None, jnp.zeros(())), num).params
    return jax.jit(start, out_shardings=shardings)(place(params, one_replica))


def state_of(config: TrainConfig, optimizer: Optimizer, mesh: Mesh, params: Any, num_members: int = 1) -> TrainState:
    """Returns the state at step 0 of weights that lie on the mesh already, each array where it belongs."""
    shardings = state_shardings(config, mesh, abstract_state(config, optimizer, num_members), num_members)
    return jax.jit(_start(config, optimizer, num_members), out_shardings=shardings)(params)


def place_batches(
    mesh: Mesh, read: Callable[[np.ndarray], Batch], indices: np.ndarray, num_steps: int, is_population: bool
) -> Batch:
    """Returns what a call of the steps trains on; on several devices each process reads only the rows its devices hold.

    Args:
      mesh: as make_mesh returns.
      read: window indices int [..., B] -> Batch of leaves [..., B, ...].
      indices: int64 [K, B], or [members, K, B].
      num_steps: K of the result; steps past those given repeat the first window and are never trained on.
      is_population: whether indices have a leading member axis.
    """
    padding = [(0, 0)] * (indices.ndim - 2) + [(0, num_steps - indices.shape[-2]), (0, 0)]
    padded = np.pad(indices, padding)
    if mesh.size == 1:
        return read(padded)
    where = batch_sharding(mesh, padded.shape, is_population)
    held = where.addressable_devices_indices_map(padded.shape).items()
    rows = [jax.device_put(read(padded[index]), device) for device, index in held]

    def joined(*parts: jax.Array) -> jax.Array:
        shape = (*padded.shape, *parts[0].shape[padded.ndim :])
        return jax.make_array_from_single_device_arrays(shape, where, parts)

    return jax.tree.map(joined, *rows)


def batch_sharding(mesh: Mesh, shape: tuple[int, ...], is_population: bool) -> NamedSharding:
    """Returns where the rows of batches lie, of shape [K, B] or [members, K, B]; every leaf of a Batch lies so."""
    return sharding(mesh, ("members",) * is_population + (None, "global_batch"), shape, name="batch")


def abstract_batches(config: TrainConfig, mesh: Mesh, num_members: int = 1) -> Batch:
    """Returns what a call of the steps trains on as jax.ShapeDtypeStruct, placed on the mesh."""
    shape = (num_members,) * (num_members > 1) + (config.steps_per_call, config.batch_size)
    where = batch_sharding(mesh, shape, num_members > 1)
    if image := config.model.image:
        pixels = jax.ShapeDtypeStruct((*shape, image.side, image.side, image.channels), jnp.uint8, sharding=where)
        return Batch(pixels, jax.ShapeDtypeStruct((*shape, 1), jnp.int32, sharding=where))
    if encoder := config.model.encoder:
        num_targets = config.model.seq_len
        both, targets = (*shape, encoder.seq_len + num_targets), (*shape, num_targets)
        leaves = ((both, jnp.int32), (targets, jnp.int32), (targets, jnp.float32), (both, jnp.int32))
        return Batch(*(jax.ShapeDtypeStruct(size, dtype, sharding=where) for size, dtype in leaves))
    return Batch(jax.ShapeDtypeStruct((*shape, config.model.seq_len + 1), jnp.int32, sharding=where))
