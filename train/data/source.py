"""A split as rows with random access: what every kind of data gives to those who draw batches from it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.train.config import DataConfig, TrainConfig

if TYPE_CHECKING:
    from kleiber.train.data.batch import Batch


class Source:
    """Rows of seq_len targets each; a data source that grain takes. Subclasses say what a row is."""

    seq_len: int
    corpus: str
    split: str

    @property
    def parts(self) -> "tuple[tuple[Source, float], ...]":
        """Sources that rows are drawn from, each with its share of them: itself."""
        return ((self, 1.0),)

    @property
    def num_sequences(self) -> int:
        """Rows."""
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        """What a target is one of: token ids, or labels."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Equal only for equal data of all splits, read alike; goes into the run record."""
        raise NotImplementedError

    def batch(self, config: TrainConfig, indices: np.ndarray, newlines: frozenset[int]) -> "Batch":
        """Returns rows [...] as a Batch of leaves [..., ...], with all that the objective needs of them."""
        raise NotImplementedError

    def num_unique_tokens(self, data: DataConfig) -> int:
        """Returns the distinct training targets that a data config allows: whole rows only."""
        return self.num_unique_sequences(data.num_unique_tokens) * self.seq_len

    def num_unique_sequences(self, num_unique_tokens: int | None) -> int:
        """Returns how many rows hold so many targets; None means all rows. Raises ValueError if that is less than one
        row, or more than the split holds."""
        if num_unique_tokens is None:
            return self.num_sequences
        chosen = num_unique_tokens // self.seq_len
        if not 1 <= chosen <= self.num_sequences:
            raise ValueError(
                f"num_unique_tokens is {num_unique_tokens:,}, expected from {self.seq_len:,} (one window) to "
                f"{self.num_sequences * self.seq_len:,} (the whole {self.split} split of {self.corpus})."
            )
        return chosen

    def __len__(self) -> int:
        return self.num_sequences

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError
