"""What an optimised program sends over which mesh axis, read from its text.

Bytes are those one device sends (and receives), by the usual algorithms on n devices: an all-gather sends its own shard
n - 1 times, a reduce-scatter (n - 1) / n of its input, an all-reduce both one after the other, an all-to-all all but
the part that stays, a permute its whole operand.

Devices are numbered as in the mesh, last axis fastest, which is how a partitioned program numbers its partitions.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.experiments.compilation.hlo import Computation, Instruction, Program, shape_bytes, sizes_of

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_IOTA = re.compile(r"(?:\[([\d,]+)\]<=|\()\[([\d,]+)\](?:T\(([\d,]+)\))?")
"""Counted devices, reordered, in groups of a shape or (of a mesh) all in one row."""
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_USED_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


@dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    kind: str
    """One of KINDS; an all-reduce of which each device keeps a part counts as a reduce-scatter."""
    axes: tuple[str, ...]
    """Mesh axes it runs over, outermost first; empty when it moves nothing between devices."""
    num_devices: int
    """Devices of one group."""
    sent_bytes: float
    """By one device, each time."""
    times: float
    """How often it runs."""
    is_asynchronous: bool
    """Whether the program computes meanwhile."""
    source: str
    """The operation of the model it comes from, as the compiler noted it."""

    @property
    def total_bytes(self) -> float:
        """Bytes one device sends over the whole program."""
        return self.sent_bytes * self.times


def collectives(program: Program, mesh_sizes: Mapping[str, int]) -> list[Collective]:
    """Returns the collectives that run, in the order of the text; those within one device are left out. mesh_sizes:
    devices of each mesh axis, outermost first, as MeshConfig.sizes."""
    found: dict[object, Collective] = {}
    for computation, instruction, times in program:
        if (collective := _collective(computation, instruction, times, mesh_sizes)) is None or not collective.axes:
            continue
        key: object = (computation.name, instruction.name)
        if (match := re.search(r'chain_id="(\d+)"', instruction.rest)) is not None:
            # TPU: one asynchronous collective, written once in each fusion that it runs beside. The loops of those
            # fusions turn more often than the collective starts.
            channel = re.search(r"channel_id=(\d+)", instruction.rest)
            key = ("chain", match.group(1), channel and channel.group(1))
        if key not in found or times < found[key].times:
            found[key] = collective
    return list(found.values())


def bytes_by_axis(items: Sequence[Collective]) -> dict[tuple[str, ...], dict[str, float]]:
    """Returns the bytes one device sends, by mesh axes and kind."""
    table: dict[tuple[str, ...], dict[str, float]] = {}
    for item in items:
        row = table.setdefault(item.axes, {})
        row[item.kind] = row.get(item.kind, 0.0) + item.total_bytes
    return table


def _collective(
    computation: Computation, instruction: Instruction, times: float, mesh_sizes: Mapping[str, int]
) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS or instruction.opcode.endswith("-done"):
        return None
    size = sum(
        shape_bytes(computation.instructions[name].shape)
        for name in instruction.operands
        if name in computation.instructions
    )
    source = re.search(r'op_name="([^"]*)"', instruction.rest)
    origin = source.group(1) if source else ""
    is_asynchronous = instruction.opcode.endswith("-start") or "chain_id=" in instruction.rest
    if kind == "collective-permute":
        axes, share = _permuted(instruction.rest, tuple(mesh_sizes.items()))
        return Collective(kind, axes, 2 if axes else 1, share * size, times, is_asynchronous, origin)
    axes, n = _grouped(_groups_text(instruction.rest), tuple(mesh_sizes.items()))
    if kind == "all-reduce" and "all-reduce-scatter" in computation.name:
        kind = "reduce-scatter"
    sent = {"all-gather": (n - 1) * size, "all-reduce": 2 * (n - 1) / n * size}.get(kind, (n - 1) / n * size)
    return Collective("all-to-all" if "all-to-all" in kind else kind, axes, n, sent, times, is_asynchronous, origin)


def _groups_text(rest: str) -> str:
    match = re.search(r"replica_groups=(.*?)(?:, [a-z_]+=(?!\(\[)|$)", rest)
    return match.group(1) if match else "{}"


@functools.lru_cache(maxsize=1024)
def _grouped(text: str, mesh_sizes: tuple[tuple[str, int], ...]) -> tuple[tuple[str, ...], int]:
    """Returns the mesh axes that differ within a group, and the devices of a group."""
    num = math.prod(size for _, size in mesh_sizes)
    members = _first_groups(text, num)
    return _axes_of(members[:, :1], members, mesh_sizes), members.shape[1]


def _first_groups(text: str, num_devices: int) -> np.ndarray:
    """Returns device numbers [groups, members] of replica groups in any of the three ways they are written."""
    if text.startswith("mesh["):
        return _mesh_groups(text)
    if match := _IOTA.search(text):
        return _counted(match)
    groups = [sizes_of(group) for group in re.findall(r"\{([\d,]+)\}", text)]
    return np.array(groups or [list(range(num_devices))])


def _counted(match: re.Match[str]) -> np.ndarray:
    shape, dimensions, order = map(sizes_of, match.groups(""))
    devices = np.arange(math.prod(dimensions)).reshape(dimensions)
    return devices.transpose(order or range(len(dimensions))).reshape(shape or -1)


def _mesh_groups(text: str) -> np.ndarray:
    """Groups written as axes of a mesh of the compiler's own: mesh['a'=8,'b'=2], device_ids=(...) {'a'}."""
    declared, _, used = text.partition("]")
    axes = [(name, int(size)) for name, size in _MESH_AXIS.findall(declared)]
    devices = np.arange(math.prod(size for _, size in axes))
    if match := _IOTA.search(used):
        devices = _counted(match)
    grouped = {
        name: (int(before or 1), int(part or 0))
        for name, before, part in _USED_AXIS.findall(used[used.rindex("{") :] if "{" in used else "")
    }
    shape: list[int] = []
    inside: list[int] = []
    for name, size in axes:  # an axis of which only a part is grouped is split in three: before, part, after
        before, part = grouped.get(name, (1, 1))
        part = part or size
        inside += [len(shape) + 1] if name in grouped else []
        shape += [before, part, size // (before * part)]
    outside = [axis for axis in range(len(shape)) if axis not in inside]
    members = math.prod(shape[axis] for axis in inside)
    return devices.reshape(shape).transpose([*outside, *inside]).reshape(-1, members)


@functools.lru_cache(maxsize=1024)
def _permuted(rest: str, mesh_sizes: tuple[tuple[str, int], ...]) -> tuple[tuple[str, ...], float]:
    """Returns the mesh axes along which a permute moves, and the share of devices that send."""
    match = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
    pairs = np.array([sizes_of(pair) for pair in re.findall(r"\{([\d,]+)", match.group(1) if match else "")])
    if not len(pairs):
        return (), 0.0
    moving = np.sum(pairs[:, 0] != pairs[:, 1])
    share = float(moving / math.prod(size for _, size in mesh_sizes))
    return _axes_of(pairs[:, :1], pairs[:, 1:], mesh_sizes), share


def _axes_of(sources: np.ndarray, targets: np.ndarray, mesh_sizes: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    sizes = [size for _, size in mesh_sizes]
    pairs = zip(np.unravel_index(sources, sizes), np.unravel_index(targets, sizes), strict=True)
    differ = [np.any(a != b) for a, b in pairs]
    return tuple(name for (name, _), is_used in zip(mesh_sizes, differ, strict=True) if is_used)
