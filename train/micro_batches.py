"""Micro-batches: how many a step makes of its rows. Needs no jax."""

import math

from kleiber.train.config import TrainConfig

CACHED_TOKENS = 512
"""Tokens of a micro-batch on CPU: its activations stay in a core's cache, its products are still large ones."""


def num_micro_batches(config: TrainConfig, platform: str) -> int:
    """Returns the micro-batches of equal size in which a step works through its rows.

    Where the config leaves it open that is one, but on CPU as many as leave CACHED_TOKENS or more to each device. Loss
    and gradients are means over tokens, so the numbers are the same to rounding; what is not a plain mean (the balance
    of experts) or draws by position (dropout) stays whole, and a pipeline has micro-batches of its own.

    Args:
      config: the trunk.
      platform: `cpu`, `gpu` or `tpu`.
    """
    if config.accumulation_steps is not None:
        return config.accumulation_steps
    if platform != "cpu" or config.model.experts or config.model.dropout or config.mesh.stage > 1:
        return 1
    replicas = config.delayed_sync.num_replicas if config.delayed_sync else 1
    rows, length = config.batch_size // replicas // config.mesh.num_batch_shards, config.model.seq_len
    small = [n for n in range(1, math.isqrt(rows) + 1) if rows % n == 0]
    divisors = (*small, *(rows // n for n in small))
    return max((n for n in divisors if rows // n * length >= CACHED_TOKENS), default=1)
