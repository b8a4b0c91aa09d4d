"""How many devices each mesh axis has. Needs no jax."""

import math
from dataclasses import dataclass, fields

from kleiber.fields import check_fields


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes, slowest network first; their product is the number of devices used."""

    replica: int = 1
    """Replicas with parameters of their own, averaged now and then: for TrainConfig.delayed_sync only."""
    stage: int = 1
    """Pipeline stages; each holds its share of the layers, which must be scanned."""
    data: int = 1
    """Copies of the parameters that each read their own part of a batch."""
    fsdp: int = 1
    """Devices over which parameters and optimizer state are split, gathered when used; the batch is split too."""
    expert: int = 1
    """Devices over which experts are split; the batch is split too."""
    context: int = 1
    """Devices over which the positions of a sequence are split (ring attention)."""
    tensor: int = 1
    """Devices over which each product is split."""

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.sizes.values()) < 1:
            raise ValueError(f"mesh sizes are {self.sizes}, expected at least 1 each.")

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each axis by name, outermost first."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def num_devices(self) -> int:
        """Devices this mesh needs."""
        return math.prod(self.sizes.values())

    @property
    def num_batch_shards(self) -> int:
        """Parts into which a batch (of one replica) is split."""
        return self.data * self.fsdp * self.expert

    def num_microbatches(self, batch_size: int) -> int:
        """Returns the microbatches that follow each other through the pipeline: as many as a batch shard has
        sequences and divides, at most four a stage, which leaves a bubble of a fifth. 1 without a pipeline."""
        rows = batch_size // self.num_batch_shards
        return 1 if self.stage == 1 else max(n for n in range(1, 4 * self.stage + 1) if rows % n == 0)

    def __str__(self) -> str:
        """Returns the axes that are used, such as `data=2 x tensor=4`."""
        used = [f"{name}={size}" for name, size in self.sizes.items() if size > 1]
        return " x ".join(used) or "one device"
