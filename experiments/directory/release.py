"""What kleiber is here: the packages that its numbers depend on, and a digest of its own source."""

import functools
import importlib
from pathlib import Path

from blake3 import blake3

PACKAGES = ("kleiber", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
ROOMS = ("parallel", "model", "train", "scaling", "experiments")
TRAINING_ROOMS = ("parallel", "model", "train")
"""Whose code a loss depends on."""


@functools.cache
def code_digests() -> dict[str, str]:
    """Returns a digest of the source files of each room, shipped experiments left out."""
    return {room: source_digest(Path(importlib.import_module(f"kleiber.{room}").__path__[0])) for room in ROOMS}


def source_digest(folder: Path) -> str:
    """Returns a digest of the names and contents of the Python files under a folder of kleiber."""
    digest = blake3()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith("configs/"):  # what is run of these is compared as the experiment
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
