"""Whether copies of one array on several devices are still the same: the only sign of a device that errs."""

from typing import Any

import jax
import numpy as np

from kleiber.train.checkpoints.checkpoint import named_leaves


class SilentCorruption(RuntimeError):
    """Replicas of an array differ; names array and device."""


def differing_replicas(state: Any) -> list[tuple[str, str]]:
    """Returns (array, device) of every copy that differs from the majority of its copies.

    Args:
      state: tree of arrays; those without copies are passed over. With two copies that differ both are named, for no
        third one can say which is right.
    """
    found = []
    for name, leaf in named_leaves(state).items():
        if not isinstance(leaf, jax.Array):
            continue
        copies: dict[str, list[tuple[bytes, str]]] = {}
        for shard in leaf.addressable_shards:
            copies.setdefault(str(shard.index), []).append((np.asarray(shard.data).tobytes(), str(shard.device)))
        for group in copies.values():
            contents = [content for content, _ in group]
            most = max(contents, key=contents.count)
            is_tied = contents.count(most) * 2 <= len(contents) and len(set(contents)) > 1
            found += [(name, device) for content, device in group if content != most or is_tied]
    return found


def check_replicas(state: Any, step: int) -> None:
    """Checks every copy of every array.

    Raises:
      SilentCorruption: some differ; says which device, and to go on without it.
    """
    found = differing_replicas(state)
    if found:
        devices = ", ".join(sorted({device for _, device in found}))
        names = ", ".join(sorted({name for name, _ in found})[:5])
        raise SilentCorruption(
            f"at step {step} copies of {names} on {devices} differ from the others: a device computed wrongly, or its "
            "memory is bad. Nothing was saved since; take it out of service, and the same line goes on from the "
            "checkpoint before."
        )
