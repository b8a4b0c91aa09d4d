"""Rows of several corpora in fixed shares: mixtures, and the replay of what was learnt before.

Which corpus a row is of depends on its number alone, by the fractional parts of multiples of the golden ratio, which
fill every stretch evenly: among any n rows each corpus has its share to within one or two. Within a corpus the order is
that of a run on it alone, so the state is still one number.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.train.config import TrainConfig
from kleiber.train.data.batches import TrainBatches
from kleiber.train.data.source import Source

if TYPE_CHECKING:
    from kleiber.train.data.batch import Batch

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class MixedSource(Source):
    """Splits of several corpora, one behind the other, encoded alike; the first is the run's own."""

    sources: tuple[Source, ...]
    shares: tuple[float, ...]
    """Of the rows, of each."""

    def __post_init__(self) -> None:
        own = self.sources[0]
        for name in ("seq_len", "corpus", "split"):
            object.__setattr__(self, name, getattr(own, name))

    @property
    def parts(self) -> tuple[tuple[Source, float], ...]:
        """Each with its share."""
        return tuple(zip(self.sources, self.shares, strict=True))

    @property
    def num_sequences(self) -> int:
        """Rows of all of them."""
        return sum(source.num_sequences for source in self.sources)

    @property
    def vocab_size(self) -> int:
        """Of all of them."""
        return self.sources[0].vocab_size

    @property
    def fingerprint(self) -> str:
        """Of the run's own corpus, by which its validation text is found again."""
        return self.sources[0].fingerprint

    def num_unique_sequences(self, num_unique_tokens: int | None) -> int:
        """Returns how many rows of the run's own corpus hold so many targets."""
        return self.sources[0].num_unique_sequences(num_unique_tokens)

    def batch(self, config: TrainConfig, indices: np.ndarray, newlines: frozenset[int]) -> "Batch":
        """Returns rows [...] as a Batch, numbered through all sources."""
        import jax

        flat, firsts = np.asarray(indices).reshape(-1), self.firsts
        owners = np.searchsorted(firsts[1:], flat, side="right")
        places = np.argsort(np.argsort(owners, kind="stable"), kind="stable")
        pieces = [
            source.batch(config, flat[owners == number] - firsts[number], newlines)
            for number, source in enumerate(self.sources)
        ]

        def joined(*leaves: np.ndarray) -> np.ndarray:
            return np.concatenate(leaves)[places].reshape(*np.shape(indices), *leaves[0].shape[1:])

        return jax.tree.map(joined, *pieces)

    @property
    def firsts(self) -> np.ndarray:
        """int64, the number of the first row of each, and behind the last of all."""
        return np.concatenate([[0], np.cumsum([source.num_sequences for source in self.sources])])


class MixedBatches(TrainBatches):
    """Batches of a MixedSource; remembers how many sequences were consumed, and nothing else."""

    def __init__(
        self, source: MixedSource, batch_size: int, seed: int, num_unique_tokens: int | None, max_epochs: float
    ) -> None:
        """As TrainBatches; num_unique_tokens is of the run's own corpus, and max_epochs holds for each."""
        super().__init__(source, batch_size, seed, num_unique_tokens, max_epochs)
        limits = [num_unique_tokens, *[None] * (len(source.sources) - 1)]
        self._of_source = [
            TrainBatches(each, 1, seed, limit, max_epochs) for each, limit in zip(source.sources, limits, strict=True)
        ]
        self._firsts, self._ends = source.firsts, np.cumsum(source.shares)[:-1]

    def _owners(self, first: int, end: int) -> np.ndarray:
        """Returns the number of the source of each of the sequences [first, end)."""
        return np.searchsorted(self._ends, np.arange(first + 1, end + 1) * GOLDEN % 1.0, side="right")

    def next_indices(self, num_steps: int) -> np.ndarray:
        """Returns the rows of the next steps, int64 [num_steps, batch_size], and moves on. Raises ValueError if that
        takes more epochs of a corpus than allowed."""
        end = self.position + num_steps * self.batch_size
        before, owners = self._owners(0, self.position), self._owners(self.position, end)
        found = np.zeros(len(owners), np.int64)
        for number, batches in enumerate(self._of_source):
            batches.position, is_own = int(np.sum(before == number)), owners == number
            found[is_own] = self._firsts[number] + batches.next_indices(int(is_own.sum())).reshape(-1)
        self.position = end
        return found.reshape(num_steps, self.batch_size)

    def state(self) -> dict[str, Any]:
        """Returns where the batches are, fit for JSON."""
        parts = [each.state() for each in self._of_source]
        return super().state() | {"mixture": [[part["fingerprint"], part["num_unique"]] for part in parts]}


def batches_of(config: TrainConfig, source: Source) -> TrainBatches:
    """Returns the batches of a run, at its start."""
    data = config.data
    given = (config.batch_size, config.seed, data.num_unique_tokens, data.max_epochs)
    return MixedBatches(source, *given) if isinstance(source, MixedSource) else TrainBatches(source, *given)
