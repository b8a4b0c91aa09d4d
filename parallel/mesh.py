"""Devices become a named mesh.

All axes are Auto: the compiler places what we leave open, and constraints by logical names say the rest. Axes are laid
out slowest network first, so that neighbours on the last axes (context, tensor) are neighbours on the wire.
"""

import contextlib
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from kleiber.parallel.config import MeshConfig

MESH_AXES = tuple(MeshConfig().sizes)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of a config over the first devices, or over those given. Raises ValueError if there are too few
    devices, or some of several hosts' devices would be left out.

    Args:
      config: sizes of the axes; their product is the number of devices used.
      devices: devices to use in order; None takes the first of jax.devices().
    """
    available = list(jax.devices() if devices is None else devices)
    if config.num_devices > len(available):
        raise ValueError(
            f"mesh {config} needs {config.num_devices} devices, there are {len(available)} "
            f"({available[0].platform}); lower an axis, or on CPU set JAX_NUM_CPU_DEVICES={config.num_devices}."
        )
    if devices is None and jax.process_count() > 1 and config.num_devices != len(available):
        raise ValueError(
            f"mesh {config} uses {config.num_devices} of the {len(available)} devices of {jax.process_count()} "
            f"processes; with several processes the sizes must multiply to all devices."
        )
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    sizes = tuple(config.sizes.values())
    used = available[: config.num_devices]
    if used[0].platform == "tpu":  # jax.make_mesh refuses two axes on one dimension of a torus, which is fine for us
        from jax.experimental.mesh_utils import create_device_mesh

        return Mesh(create_device_mesh(sizes, used, allow_split_physical_axes=True), MESH_AXES, axis_types=kinds)
    return jax.make_mesh(sizes, MESH_AXES, axis_types=kinds, devices=used)


def use_mesh(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Returns the context in which constraints mean this mesh; a single device needs none."""
    return jax.set_mesh(mesh) if mesh.size > 1 else contextlib.nullcontext()
