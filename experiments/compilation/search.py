"""Which meshes are sensible for a model on a number of devices, best first by the roofline on paper."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kleiber.experiments.compilation.memory import StepMemory, step_memory
from kleiber.experiments.compilation.roofline import Roofline, on_paper
from kleiber.experiments.compilation.topology import Chip, Links
from kleiber.model.config import RematKeeps
from kleiber.model.counts import flops_per_token
from kleiber.parallel.config import MeshConfig
from kleiber.train.config import TrainConfig

ROOM = 0.85
"""Part of the memory that the estimate may fill: it is a model, and the compiler has the last word."""
SEARCHED: tuple[RematKeeps, ...] = ("nothing", "attention", "products")
"""What a search lets rematerialisation keep; how fast a host's memory is, the roofline does not know."""
LARGEST_TENSOR = 16
"""Past one torus dimension a tensor axis loses its ring."""


@dataclass(frozen=True)
class Candidate:
    """A mesh, and what rematerialisation keeps on it, with the estimates."""

    config: TrainConfig
    memory: StepMemory
    roofline: Roofline
    utilisation: float
    """Counted FLOPs (kleiber.model.counts.flops_per_token) over what the chips could do in roofline.seconds."""

    @property
    def name(self) -> str:
        """The mesh, and what is kept if anything is, such as `fsdp=256, keeps attention`."""
        keeps = self.config.model.remat_keeps
        return str(self.config.mesh) + ("" if keeps == "nothing" else f", keeps {keeps}")

    def fits(self, chip: Chip, room: float = ROOM) -> bool:
        """Returns whether the estimate fills no more than this part of the memory."""
        return self.memory.total_bytes < room * chip.hbm_bytes / chip.devices_per_chip


def candidates(
    config: TrainConfig,
    num_devices: int,
    chip: Chip,
    links: Callable[[MeshConfig], Mapping[str, Links]],
    platform: str,
    keeps: Sequence[RematKeeps] = (),
) -> list[Candidate]:
    """Returns the meshes a config divides over, those that fit first, each part best first.

    Args:
      config: the trunk; its mesh is not read.
      num_devices: all are used.
      chip: peak, memory and links.
      links: what the axes of a mesh have of the network; meshes for which it raises ValueError are left out.
      platform: of the devices, `cpu`, `gpu` or `tpu`.
      keeps: what rematerialisation may keep, each tried on each mesh; none, or no rematerialisation: as config says.
    """
    own = config.model.on_platform(platform)
    models = [dataclasses.replace(own, remat_keeps=kept) for kept in keeps] if own.has_remat and keeps else [own]
    found = []
    for mesh in meshes(config, num_devices):
        try:
            network = links(mesh)
            for model in models:
                split = dataclasses.replace(config, mesh=mesh, model=model)
                memory = step_memory(split, platform)
                roofline = on_paper(split, chip, network, memory.state_bytes)
                found.append(Candidate(split, memory, roofline, utilisation(split, chip, roofline.seconds)))
        except ValueError:
            continue
    return sorted(found, key=lambda c: (not c.fits(chip), -round(c.utilisation, 3), c.memory.total_bytes))


def utilisation(config: TrainConfig, chip: Chip, seconds: float) -> float:
    """Returns counted FLOPs of a step over those the peak of all chips gives in the same time (MFU)."""
    peak = chip.peak_flops / chip.devices_per_chip * config.mesh.num_devices
    return flops_per_token(config.model) * config.tokens_per_step / (peak * seconds)


def meshes(config: TrainConfig, num_devices: int) -> list[MeshConfig]:
    """Returns the meshes of so many devices worth trying: data, fsdp, tensor and, for experts, expert."""
    largest = config.model.experts.num_experts if config.model.experts else 1
    found = []
    for tensor, expert, data in itertools.product(_powers(LARGEST_TENSOR), _powers(min(largest, 64)), _powers(64)):
        if num_devices % (tensor * expert * data) == 0:
            fsdp = num_devices // (tensor * expert * data)
            found.append(MeshConfig(data=data, fsdp=fsdp, expert=expert, tensor=tensor))
    parts = config.accumulation_steps or 1
    return [mesh for mesh in found if config.batch_size % (mesh.num_batch_shards * parts) == 0]


def _powers(largest: int) -> list[int]:
    return [2**n for n in range(largest.bit_length())]
