"""Chips of a pod that need not be rented: what each kind can do, and abstract devices to compile for.

Figures are per chip. A link is one cable to a neighbour and its bandwidth that of one direction. A torus dimension that
closes to a ring moves data both ways round; one that does not is a line, and a line's ends have one link.
"""

import contextlib
import difflib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh

INSTALL_LIBTPU = (
    "compiling for a TPU takes its compiler, libtpu, which is not installed (no TPU is needed): "
    "pip install 'kleiber[aot]', 140 MB."
)


@dataclass(frozen=True)
class Chip:
    """What one chip can do."""

    name: str
    peak_flops: float
    """Dense bfloat16 FLOP/s."""
    hbm_bytes: float
    """What a program may fill."""
    hbm_bandwidth: float
    """Bytes/s between the chip and its memory."""
    link_bandwidth: float
    """Bytes/s of one link, one direction. Of a switched network: bytes/s one device sends."""
    torus_dimensions: int
    """2 for links to four neighbours, 3 for six, 0 for a switch."""
    ring_multiple: int
    """A torus dimension closes to a ring when its length is a multiple of this."""
    source: str
    clock: float | None = None
    """Cycles/s in which the compiler counts its estimates; None where none is published."""
    devices_per_chip: int = 1
    """JAX devices of one chip; the figures above are of the whole chip."""
    options: tuple[tuple[str, str], ...] = ()
    """Arguments of a topology of this kind."""


GIB = 2.0**30
_TPU = "https://docs.cloud.google.com/tpu/docs/"
_GPU = "https://www.nvidia.com/en-us/data-center/"
# HBM: the limit that libtpu 0.0.42 names when it refuses a program; data sheets say 32, 16, 95, 32 and 192 GB.
# Links: the bidirectional bandwidth per chip on the vendor's pages over 2 directions and 4 or 6 links; for v4 the 50
# GB/s of Jouppi et al. 2023 (arXiv:2304.01433), table 4. Clocks: peak over 2 x 128 x 128 FLOPs a cycle and matrix unit,
# of which v5e has 4, v4 and v5p 8.
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 30.75 * GIB, 1228e9, 50e9, 3, 4, _TPU + "v4", 1.05e9,
             options=(("chip_config_name", "megacore"),)),
        Chip("v5e", 197e12, 15.75 * GIB, 819e9, 50e9, 2, 16, _TPU + "v5e", 1.5e9),
        Chip("v5p", 459e12, 95.74 * GIB, 2765e9, 100e9, 3, 4, _TPU + "v5p", 1.75e9),
        Chip("v6e", 918e12, 31.25 * GIB, 1638e9, 100e9, 2, 16, _TPU + "v6e"),
        Chip("tpu7x", 2307e12, 189.5 * GIB, 7380e9, 100e9, 3, 4, _TPU + "tpu7x", devices_per_chip=2),
    )
}  # fmt: skip
"""TPUs by the first part of a topology's name."""

GPUS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("A100", 312e12, 80e9, 2039e9, 300e9, 0, 1, _GPU + "a100"),
        Chip("H100", 989e12, 80e9, 3350e9, 450e9, 0, 1, _GPU + "h100"),
        Chip("H200", 989e12, 141e9, 4800e9, 450e9, 0, 1, _GPU + "h200"),
    )
}
"""GPUs (SXM form) by a word of their device kind; the bandwidth is NVLink's, one direction, within a host."""

EXAMPLES = ("v4:4x4x4", "v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v5p:8x8x8", "v5p:16x16x16", "v6e:16x16", "tpu7x:4x4x4")


@dataclass(frozen=True)
class Topology:
    """A box of chips, such as v5p:16x16x16."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        """Chips of the box."""
        return math.prod(self.shape)

    @property
    def num_devices(self) -> int:
        """JAX devices of the box."""
        return self.num_chips * self.chip.devices_per_chip

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"


def parse_topology(name: str) -> Topology:
    """Returns the topology of a name KIND:SIZExSIZE[xSIZE]. Raises ValueError if the kind is unknown or the sizes are
    not those of its torus; names near ones."""
    kind, _, sizes = name.partition(":")
    if kind not in CHIPS:
        near = (difflib.get_close_matches(name, EXAMPLES, n=1, cutoff=0.3) or EXAMPLES)[0]
        raise ValueError(f"topology '{name}': unknown chip '{kind}', known: {', '.join(CHIPS)}; such as {near}.")
    chip, alike = CHIPS[kind], [example for example in EXAMPLES if example.startswith(kind + ":")]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes) or len(sizes.split("x")) != chip.torus_dimensions:
        raise ValueError(
            f"topology '{name}': expected {kind}: and {chip.torus_dimensions} sizes, such as {', '.join(alike)}."
        )
    return Topology(chip, tuple(int(size) for size in sizes.split("x")))


def topology_devices(topology: Topology) -> list["jax.Device"]:
    """Returns the abstract devices of a topology; they can be compiled for, not computed on. Raises ValueError if
    libtpu is missing, or knows no such topology."""
    import importlib.util

    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(INSTALL_LIBTPU)
    # libtpu would look for a cloud machine's metadata, and lets one process at a time in: neither matters here.
    for key, value in (("TPU_SKIP_MDS_QUERY", "1"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")):
        os.environ.setdefault(key, value)
    import jax
    from jax.experimental import topologies

    options = dict(topology.chip.options)
    try:
        with quiet_stderr():
            described = topologies.get_topology_desc(platform="tpu", topology_name=str(topology), **options)
    except jax.errors.JaxRuntimeError as refusal:
        reason = str(refusal).splitlines()[0]
        raise ValueError(
            f"topology '{topology}' is none that libtpu knows ({reason}); try {', '.join(EXAMPLES)}."
        ) from None
    return list(described.devices)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps what libraries below Python write to standard error (libtpu, on a machine without a TPU) off the screen."""
    import sys

    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True)
class Links:
    """What one mesh axis has of the network."""

    bandwidth: float
    """Bytes/s one device can send along the axis by all links at once."""
    hops: float
    """Links an all-to-all crosses on its way, on average; 1 on a switch."""
    neighbour_bandwidth: float
    """Bytes/s to the next device one way."""


def axis_links(mesh: "Mesh", chip: Chip) -> dict[str, Links]:
    """Returns what each mesh axis of more than one device has of a chip's links, by where its devices lie on the torus;
    without coordinates (GPUs), every axis has the switch to itself.

    A torus dimension that the axis covers whole and that closes to a ring counts two links, with a quarter of its
    length to cross; one that it covers in part, or that does not close, one link and a third. Axes that share a
    dimension share its links, which this does not show."""
    import numpy as np

    devices, found = mesh.devices, {}
    used = [(axis, name) for axis, (name, size) in enumerate(mesh.shape.items()) if size > 1]
    if not chip.torus_dimensions or not hasattr(devices.flat[0], "coords"):
        return {name: Links(chip.link_bandwidth, 1.0, chip.link_bandwidth) for _, name in used}
    coordinates = np.array([device.coords for device in devices.flat]).reshape(*devices.shape, -1)
    lengths = coordinates.reshape(-1, coordinates.shape[-1]).max(axis=0) + 1
    link = chip.link_bandwidth / chip.devices_per_chip
    for axis, name in used:
        line = coordinates[tuple(slice(None) if other == axis else 0 for other in range(devices.ndim))]
        covered = [len(set(line[:, dimension].tolist())) for dimension in range(len(lengths))]
        sizes = [
            (part, part == length and length % chip.ring_multiple == 0)
            for part, length in zip(covered, lengths, strict=True)
        ]
        links = sum(2 if is_ring else 1 for part, is_ring in sizes if part > 1)
        hops = sum(part / 4 if is_ring else part / 3 for part, is_ring in sizes if part > 1)
        # No dimension: the two devices of one chip, which are nearer than any link; no figure is published.
        found[name] = Links(link * max(links, 1), max(hops, 1.0), link)
    return found


def chip_of(device: "jax.Device") -> Chip | None:
    """Returns the figures of an attached device, or None for one that is not in the tables (a CPU)."""
    kinds = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p",
             "TPU v6 lite": "v6e", "TPU v6e": "v6e", "TPU7x": "tpu7x"}  # fmt: skip
    if device.device_kind in kinds:
        return CHIPS[kinds[device.device_kind]]
    return next((chip for word, chip in GPUS.items() if word in device.device_kind), None)


UNKNOWN = Chip("unknown", 1e12, math.inf, 1e11, 1e10, 0, 1, "round figures to rank meshes by where none are known")
