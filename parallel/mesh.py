"""Devices become a named mesh. The axes: `data` splits the batch, `fsdp` the batch and the weights, `tensor` products.

All axes are Auto: the compiler places what we leave open, and constraints by logical names say the rest.
"""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from kleiber.parallel.config import MeshConfig

MESH_AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of a config over the first devices, or over those given.

    Args:
      config: sizes of the axes; their product is the number of devices used.
      devices: devices to use in order; None takes the first of jax.devices().

    Raises:
      ValueError: if a size is below one or there are too few devices.
    """
    sizes = (config.data, config.fsdp, config.tensor)
    if min(sizes) < 1:
        raise ValueError(f"mesh sizes are {dict(zip(MESH_AXES, sizes, strict=True))}, expected at least 1 each.")
    available = list(jax.devices() if devices is None else devices)
    if config.num_devices > len(available):
        raise ValueError(
            f"mesh data={config.data} x fsdp={config.fsdp} x tensor={config.tensor} needs {config.num_devices} "
            f"devices, there are {len(available)}; lower an axis, or on CPU set jax_num_cpu_devices."
        )
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(sizes, MESH_AXES, axis_types=kinds, devices=available[: config.num_devices])
