"""The one table from logical axis names to mesh axes, and the shardings that follow. Strict: what is unclear raises.

A layout reads W[D_fsdp, F_tensor]: array dimension, subscript mesh axis.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

MeshAxes = str | tuple[str, ...] | None
LogicalAxes = tuple[str | None, ...]

RULES: Mapping[str, MeshAxes] = {
    "replicas": "replica",  # params[R_replica, ...] under delayed synchronisation
    "batch": ("data", "fsdp", "expert"),  # x[B_data,fsdp,expert, T_context, D]
    "global_batch": ("replica", "data", "fsdp", "expert"),  # tokens[K, B, T + 1], before replicas take their parts
    "expert_batch": ("data", "fsdp"),  # x[B_data,fsdp, E_expert, C, D]: tokens sent to their experts
    "seq": "context",
    "embed": "fsdp",  # W[D_fsdp, F_tensor]: gathered over fsdp when used
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "vocab": "tensor",
    "experts": "expert",
    "layers": "stage",
    "stages": "stage",  # x[S_stage, b, T, D]: what each pipeline stage works on
    "members": None,  # of a population: every device holds its part of each member
}


def weights_are_whole() -> bool:
    """Returns whether each device works with whole weights and whole sequences in the mesh in use: no mesh, or one
    that splits the batch alone."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or all(size == 1 for axis, size in mesh.shape.items() if axis not in ("replica", "data"))


def partition_spec(
    axes: tuple[str | None, ...], rules: Mapping[str, MeshAxes] = RULES, name: str = ""
) -> PartitionSpec:
    """Returns the PartitionSpec of an array whose dimensions have these logical axes. Raises ValueError if a name is
    unknown or two dimensions meet on one mesh axis.

    Args:
      axes: logical name of each dimension; None is never split.
      rules: the table.
      name: of the array, for messages.
    """
    spec: list[MeshAxes] = []
    used: dict[str, int] = {}
    for dimension, axis in enumerate(axes):
        if axis is not None and axis not in rules:
            near = difflib.get_close_matches(axis, rules, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {sorted(rules)}."
            raise ValueError(f"{name or 'array'} dimension {dimension} has unknown logical axis '{axis}'; {hint}")
        mesh_axes = None if axis is None else rules[axis]
        for mesh_axis in _as_tuple(mesh_axes):
            if mesh_axis in used:
                raise ValueError(
                    f"{name or 'array'} {axes}: dimensions {used[mesh_axis]} and {dimension} both map to mesh axis "
                    f"'{mesh_axis}'; an array can be split over a mesh axis once."
                )
            used[mesh_axis] = dimension
        spec.append(mesh_axes)
    return PartitionSpec(*spec)


def sharding(
    mesh: Mesh | AbstractMesh,
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
    rules: Mapping[str, MeshAxes] = RULES,
    name: str = "",
) -> NamedSharding:
    """Returns the sharding of an array, after checking that every split dimension divides. Raises ValueError as
    partition_spec, or if the ranks differ, the mesh lacks an axis, or a size does not divide."""
    if len(axes) != len(shape):
        raise ValueError(f"{name or 'array'} has shape {shape} but logical axes {axes}: one name a dimension.")
    spec = partition_spec(axes, rules, name)
    for dimension, (size, mesh_axes) in enumerate(zip(shape, spec, strict=True)):
        for mesh_axis in _as_tuple(mesh_axes):
            if mesh_axis not in mesh.shape:
                raise ValueError(
                    f"{name or 'array'} dimension {dimension} maps to mesh axis '{mesh_axis}', "
                    f"but the mesh has {tuple(mesh.axis_names)}."
                )
        parts = math.prod(mesh.shape[mesh_axis] for mesh_axis in _as_tuple(mesh_axes))
        if size % parts:
            raise ValueError(
                f"{name or 'array'} dimension {dimension} ('{axes[dimension]}') has size {size}, which does not "
                f"divide over mesh axis {mesh_axes!r} of {parts} devices; change the size or the mesh."
            )
    return NamedSharding(mesh, spec)


def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """Returns x, laid out on the mesh in use (jax.set_mesh) as its logical axes say. Raises ValueError as sharding.

    It is x itself without a mesh, and inside a shard_map over all of it, where arrays are a device's own.
    """
    if (mesh := _split_mesh()) is None:
        return x
    return jax.lax.with_sharding_constraint(x, sharding(mesh, axes, x.shape, name="activation").spec)


def _split_mesh() -> AbstractMesh | None:
    """Returns the mesh in use, None where arrays lie on one device or are a device's own parts."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual else mesh


def on_own_parts(function: Callable[..., jax.Array], inputs: Sequence[LogicalAxes], output: LogicalAxes) -> Any:
    """Returns function as each device of the mesh in use runs it, on its own parts of the arrays: for kernels that the
    compiler cannot split. It is function itself where constrain leaves an array as it is.

    Args:
      function: of arrays; what it does must need nothing of other devices' parts.
      inputs: logical axes of each argument.
      output: of its result.
    """
    if (mesh := _split_mesh()) is None:
        return function
    specs = tuple(partition_spec(axes) for axes in inputs)
    free = {name for name in mesh.axis_names if name not in mesh.manual_axes}
    return jax.shard_map(function, in_specs=specs, out_specs=partition_spec(output), axis_names=free, check_vma=False)


def place(tree: Any, shardings: Any) -> Any:
    """Returns host arrays (the same in every process) as arrays on the mesh, by a tree of NamedSharding; each process
    hands over only the parts its devices hold."""

    def one(array: Any, where: NamedSharding) -> jax.Array:
        if where.is_fully_addressable:
            return jax.device_put(array, where)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, where, lambda index: host[index])

    return jax.tree.map(one, tree, shardings)


def _as_tuple(mesh_axes: MeshAxes) -> tuple[str, ...]:
    if mesh_axes is None:
        return ()
    return (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
