"""How many devices each mesh axis has. Needs no jax."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices used."""

    data: int = 1
    """Replicas that each read their own part of a batch."""
    fsdp: int = 1
    """Devices over which parameters and optimizer state are split, gathered when used."""
    tensor: int = 1
    """Devices over which each product is split."""

    @property
    def num_devices(self) -> int:
        """Devices this mesh needs."""
        return self.data * self.fsdp * self.tensor
