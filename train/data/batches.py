"""Batches: windows in an order that depends on the seed alone, resumable at any sequence.

The order of an epoch is grain's global shuffle, reshuffled each epoch, so each window comes once an epoch, none is
left out, and a batch may hold the end of one epoch and the start of the next. The whole state is one number: the
sequences consumed. grain loads with the first batch.
"""

import hashlib
import math
from functools import cached_property
from typing import Any

import numpy as np

from kleiber.train.config import GuardConfig
from kleiber.train.data.source import Source

SUBSET_SEED = 20_221  # fixes which windows num_unique_tokens keeps, for every run; a larger set holds a smaller


def check_enough(source: Source, num_tokens: int, max_epochs: float, num_unique_tokens: int | None = None) -> float:
    """Returns the passes over the (unique) training tokens that a plan of num_tokens takes. Raises ValueError if they
    are more than max_epochs; it says how many, and what allows them."""
    parts = source.parts
    if len(parts) > 1:
        limits = [num_unique_tokens, *[None] * (len(parts) - 1)]
        of_each = zip(parts, limits, strict=True)
        return max(check_enough(part, math.ceil(num_tokens * s), max_epochs, limit) for (part, s), limit in of_each)
    unique_tokens = source.num_unique_sequences(num_unique_tokens) * source.seq_len
    epochs = num_tokens / unique_tokens
    if epochs > max_epochs + 1e-9:
        subset = "" if num_unique_tokens is None else f" limited by DataConfig.num_unique_tokens={num_unique_tokens}"
        raise ValueError(
            f"corpus {source.corpus} is too short: the plan trains on {num_tokens:,} tokens, which takes {epochs:.2f} "
            f"epochs of its {unique_tokens:,} tokens{subset}, and {max_epochs:g} are allowed. "
            f"Set DataConfig.max_epochs={math.ceil(epochs * 10) / 10:g} to allow repeats (they are recorded, and bend "
            f"the exponents), or use a larger corpus."
        )
    return epochs


class TrainBatches:
    """Batches of training windows; remembers how many sequences were consumed, and nothing else."""

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        num_unique_tokens: int | None = None,
        max_epochs: float = 1.0,
    ) -> None:
        """Makes the batches of one run, at its start.

        Args:
          source: the training split.
          batch_size: sequences of a global batch.
          seed: decides the order.
          num_unique_tokens: train on this many tokens only, a random set of windows that is the same for every seed.
          max_epochs: passes over the unique windows; asking for more is an error.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1 sequence.")
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.num_unique = source.num_unique_sequences(num_unique_tokens)
        self.position = 0
        self._limit = math.ceil(max_epochs * self.num_unique - 1e-9)
        self._max_epochs = max_epochs

    @property
    def epochs(self) -> float:
        """Passes over the unique windows so far."""
        return self.position / self.num_unique

    @cached_property
    def _order(self) -> Any:
        """Sequence number -> one of the num_unique windows, as a lazy grain dataset of endless epochs."""
        import grain

        return grain.MapDataset.range(self.num_unique).shuffle(seed=order_seed(self.seed)).repeat()

    @cached_property
    def _subset(self) -> Any:
        """One of the num_unique windows -> window index. Apart from _order, because grain would draw another subset
        in each epoch if both were one pipeline."""
        import grain

        return grain.MapDataset.range(self.source.num_sequences).shuffle(seed=SUBSET_SEED)

    def next_indices(self, num_steps: int) -> np.ndarray:
        """Returns the windows of the next steps, int64 [num_steps, batch_size], and moves on. Raises ValueError if that
        takes more epochs than allowed."""
        end = self.position + num_steps * self.batch_size
        if end > self._limit:
            raise ValueError(
                f"{end:,} sequences are {end / self.num_unique:.3f} epochs of {self.source.corpus}, and "
                f"{self._max_epochs:g} are allowed; DataConfig.max_epochs allows repeats."
            )
        order = self._order
        indices = [order[sequence] for sequence in range(self.position, end)]
        if self.num_unique < self.source.num_sequences:
            subset = self._subset
            indices = [subset[index] for index in indices]
        self.position = end
        return np.array(indices, np.int64).reshape(num_steps, self.batch_size)

    def state(self) -> dict[str, Any]:
        """Returns where the batches are, fit for JSON; independent of the steps drawn at a time."""
        return {
            "position": self.position,
            "seed": self.seed,
            "num_unique": self.num_unique,
            "seq_len": self.source.seq_len,
            "fingerprint": self.source.fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Moves to a saved state. Raises ValueError if it belongs to other data, another seed or another length; says
        what differs."""
        own = self.state()
        differing = [
            f"{key} {state.get(key)!r} (here {own[key]!r})"
            for key in own
            if key != "position" and state.get(key) != own[key]
        ]
        if differing:
            raise ValueError(f"the saved data position is of another run: {', '.join(differing)}.")
        if not isinstance(state.get("position"), int) or state["position"] < 0:
            raise ValueError(f"the saved data position is {state.get('position')!r}, expected a count of sequences.")
        self.position = state["position"]


def next_indices(config: GuardConfig, batches: TrainBatches, first_step: int, count: int) -> np.ndarray:
    """Returns the windows of the next `count` steps after first_step, int64 [count, rows], jumping over the batches
    that the config leaves out; moves the batches on."""
    if not config.skip_batches:
        return batches.next_indices(count)
    pieces, step = [], first_step
    while step < first_step + count:
        number, length = config.batch_number(step), 1
        while step + length < first_step + count and config.batch_number(step + length) == number + length:
            length += 1
        batches.position = number * batches.batch_size
        pieces.append(batches.next_indices(length))
        step += length
    return np.concatenate(pieces)


def order_seed(seed: int) -> int:
    """Returns the 32-bit seed of grain's shuffle. Hashed, because grain adds the epoch to it: with plain seeds the
    second epoch of seed 0 would repeat the first epoch of seed 1."""
    return int.from_bytes(hashlib.sha256(f"data order {seed}".encode()).digest()[:4], "big")
