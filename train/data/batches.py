"""Batches: windows of a token file in an order that depends on the seed alone, resumable at any sequence.

A window is seq_len + 1 tokens, inputs window[:-1] and targets window[1:]; the next window starts seq_len later. The
order of an epoch is grain's global shuffle, reshuffled each epoch, so each window comes once an epoch, none is left
out, and a batch may hold the end of one epoch and the start of the next. The whole state is one number: sequences
consumed. Opening prepared tokens needs numpy only; grain loads with the first TrainBatches.
"""

import hashlib
import math
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig
from kleiber.train.data.corpora import find_corpus, prepare_corpus, prepared_folder
from kleiber.train.data.tokens import TokenFile, has_tokens, open_token_file, prepare_tokens

SUBSET_SEED = (
    20_221  # fixes which windows num_unique_tokens keeps: the same for every run, a larger set holds a smaller
)


class ValidationWindows(NamedTuple):
    """The fixed windows that every run is scored on."""

    tokens: np.ndarray
    """int32 [windows, seq_len + 1]."""
    groups: np.ndarray
    """int32 [windows], the group (service, article or document) of most of the window: clusters of the loss."""
    indices: np.ndarray
    """int64 [windows], for TokenSource.segment_ids."""


@dataclass(frozen=True, eq=False)
class TokenSource:
    """A split as windows with random access; also a data source that grain takes."""

    file: TokenFile
    seq_len: int
    corpus: str
    split: str

    @property
    def num_tokens(self) -> int:
        """Tokens of the split, separators included."""
        return len(self.file.tokens)

    @property
    def num_sequences(self) -> int:
        """Whole windows; the last few tokens that fill none are left out."""
        return (self.num_tokens - 1) // self.seq_len

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self.file.vocab_size

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text for each token, so bits per byte = loss / ln 2 / bytes_per_token."""
        return self.file.num_text_bytes / self.num_tokens

    @property
    def fingerprint(self) -> str:
        """Equal only for equal text of all splits and equal tokenizer; goes into the run record."""
        return self.file.fingerprint

    def windows(self, indices: np.ndarray) -> np.ndarray:
        """Returns the tokens of windows.

        Args:
          indices: integers [...] from 0 to num_sequences - 1.

        Returns:
          int32 [..., seq_len + 1].
        """
        return self.file.tokens[self._positions(indices)].astype(np.int32)

    def segment_ids(self, indices: np.ndarray) -> np.ndarray:
        """Returns which document of its window each token belongs to, counted from 0; a separator ends its document.

        Args:
          indices: integers [...] from 0 to num_sequences - 1.

        Returns:
          int32 [..., seq_len + 1].
        """
        documents = self._documents(self._positions(indices))
        return (documents - documents[..., :1]).astype(np.int32)

    def window_groups(self, indices: np.ndarray) -> np.ndarray:
        """Returns the group that most tokens of each window belong to.

        Args:
          indices: integers [windows].

        Returns:
          int32 [windows].
        """
        groups = self.file.groups[self._documents(self._positions(indices))]
        counted = (np.unique(row, return_counts=True) for row in groups)
        return np.array([names[np.argmax(counts)] for names, counts in counted], np.int32)

    def _positions(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(indices, np.int64)[..., None] * self.seq_len + np.arange(self.seq_len + 1)

    def _documents(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.file.offsets, positions, side="right") - 1

    def __len__(self) -> int:
        return self.num_sequences

    def __getitem__(self, index: int) -> np.ndarray:
        return self.windows(np.array(index))


def open_tokens(data: DataConfig, split: str, seq_len: int) -> TokenSource:
    """Returns a split of a corpus as windows, preparing what is missing if that needs no download.

    Args:
      data: names the corpus and the tokenizer.
      split: `train`, `validation`, or another of the corpus's manifest.
      seq_len: tokens of context.

    Raises:
      ValueError: if the corpus must be prepared by the user first, is damaged, or is shorter than one window.
    """
    corpus = find_corpus(data.corpus)
    folder = prepared_folder(corpus)
    if folder is None or not has_tokens(folder, data.tokenizer):
        if folder is None and corpus.needs_download:
            raise ValueError(
                f"corpus {data.corpus} is not prepared yet and needs a download; run: "
                f"kleiber data prepare {data.corpus} --tokenizer {data.tokenizer}"
            )
        folder = prepare_corpus(data.corpus, report_to_stderr)
        prepare_tokens(folder, data.tokenizer, report_to_stderr)
    source = TokenSource(open_token_file(folder, data.tokenizer, split), seq_len, data.corpus, split)
    if source.num_sequences < 1:
        raise ValueError(
            f"split '{split}' of {data.corpus} has {source.num_tokens} tokens, fewer than one window of seq_len + 1 = "
            f"{seq_len + 1}; use more text or a smaller seq_len."
        )
    return source


def report_to_stderr(line: str) -> None:
    """Prints a line of progress where it cannot disturb `--json`."""
    print(line, file=sys.stderr, flush=True)


def check_vocabulary(source: TokenSource, model: ModelConfig) -> None:
    """Checks that every token id has a row in the model's embedding and none is left over.

    Raises:
      ValueError: if vocab_size of the data and of the model differ.
    """
    if source.vocab_size != model.vocab_size:
        raise ValueError(
            f"vocabulary and data disagree: tokenizer '{source.file.tokenizer}' has {source.vocab_size} ids, "
            f"ModelConfig.vocab_size is {model.vocab_size}; set ModelConfig.vocab_size={source.vocab_size} or choose "
            f"another DataConfig.tokenizer."
        )


def check_enough(
    source: TokenSource, num_tokens: int, max_epochs: float, num_unique_tokens: int | None = None
) -> float:
    """Returns the passes over the (unique) training tokens that a plan takes.

    Args:
      source: the training split.
      num_tokens: that the plan trains on.
      max_epochs: that are allowed.
      num_unique_tokens: as in DataConfig; None means the whole split.

    Raises:
      ValueError: if the plan takes more passes than allowed; says how many, and what allows them.
    """
    unique_tokens = num_unique_sequences(source, num_unique_tokens) * source.seq_len
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


def num_unique_sequences(source: TokenSource, num_unique_tokens: int | None) -> int:
    """Returns the windows that training may use.

    Raises:
      ValueError: if num_unique_tokens is less than one window, or more than the split holds.
    """
    if num_unique_tokens is None:
        return source.num_sequences
    chosen = num_unique_tokens // source.seq_len
    if not 1 <= chosen <= source.num_sequences:
        raise ValueError(
            f"num_unique_tokens is {num_unique_tokens:,}, expected from {source.seq_len:,} (one window) to "
            f"{source.num_sequences * source.seq_len:,} (the whole training split of {source.corpus})."
        )
    return chosen


def validation_windows(source: TokenSource, num_tokens: int) -> ValidationWindows:
    """Returns windows spread evenly over a split: the same whenever, and for whatever run, they are asked for.

    Args:
      source: a held-out split.
      num_tokens: predicted tokens wanted; a split that holds fewer is used whole.

    Returns:
      max(1, num_tokens // seq_len) windows, or all of them.
    """
    wanted = min(source.num_sequences, max(1, num_tokens // source.seq_len))
    indices = np.arange(wanted, dtype=np.int64) * source.num_sequences // wanted
    return ValidationWindows(source.windows(indices), source.window_groups(indices), indices)


class TrainBatches:
    """Batches of training windows; remembers how many sequences were consumed, and nothing else."""

    def __init__(
        self,
        source: TokenSource,
        batch_size: int,
        seed: int,
        num_unique_tokens: int | None = None,
        max_epochs: float = 1.0,
        shard_index: int = 0,
        num_shards: int = 1,
    ) -> None:
        """Makes the batches of one run, at its start.

        Args:
          source: the training split.
          batch_size: sequences of a global batch.
          seed: decides the order.
          num_unique_tokens: train on this many tokens only, a random set of windows that is the same for every seed.
          max_epochs: passes over the unique windows; asking for more is an error.
          shard_index: which contiguous part of each global batch this process takes.
          num_shards: parts; must divide batch_size. The global batches are the same for any number.
        """
        if batch_size < 1 or batch_size % num_shards or not 0 <= shard_index < num_shards:
            raise ValueError(
                f"shard {shard_index} of {num_shards} of a batch of {batch_size} sequences: num_shards must divide "
                f"batch_size, and shard_index be from 0 to num_shards - 1."
            )
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.num_unique = num_unique_sequences(source, num_unique_tokens)
        self.position = 0
        self._limit = math.ceil(max_epochs * self.num_unique - 1e-9)
        self._max_epochs = max_epochs
        rows = batch_size // num_shards
        self._rows = np.arange(shard_index * rows, (shard_index + 1) * rows)

    @property
    def epochs(self) -> float:
        """Passes over the unique windows so far."""
        return self.position / self.num_unique

    @cached_property
    def _order(self) -> Any:
        """Sequence number -> window index, as a lazy grain dataset of endless epochs."""
        import grain

        windows = grain.MapDataset.range(self.source.num_sequences)
        if self.num_unique < self.source.num_sequences:
            windows = windows.shuffle(seed=SUBSET_SEED)[: self.num_unique]
        return windows.shuffle(seed=order_seed(self.seed)).repeat()

    def next_indices(self, num_steps: int) -> np.ndarray:
        """Returns the windows of the next steps, and moves on.

        Args:
          num_steps: optimizer steps.

        Returns:
          int64 [num_steps, batch_size / num_shards].

        Raises:
          ValueError: if that takes more epochs than allowed.
        """
        end = self.position + num_steps * self.batch_size
        if end > self._limit:
            raise ValueError(
                f"{end:,} sequences are {end / self.num_unique:.3f} epochs of {self.source.corpus}, and "
                f"{self._max_epochs:g} are allowed; DataConfig.max_epochs allows repeats."
            )
        sequences = self.position + np.arange(num_steps)[:, None] * self.batch_size + self._rows
        order = self._order
        indices = np.array([order[i] for i in sequences.ravel().tolist()], np.int64).reshape(sequences.shape)
        self.position = end
        return indices

    def next_block(self, num_steps: int) -> np.ndarray:
        """Returns the batches of the next steps, int32 [num_steps, batch_size / num_shards, seq_len + 1]."""
        return self.source.windows(self.next_indices(num_steps))

    def state(self) -> dict[str, Any]:
        """Returns where the batches are, fit for JSON; independent of block size and number of shards."""
        return {
            "position": self.position,
            "seed": self.seed,
            "num_unique": self.num_unique,
            "seq_len": self.source.seq_len,
            "fingerprint": self.source.fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Moves to a saved state.

        Raises:
          ValueError: if it belongs to other data, another seed or another length; says what differs.
        """
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


def order_seed(seed: int) -> int:
    """Returns the 32-bit seed of grain's shuffle. Hashed, because grain adds the epoch to it: with plain seeds the
    second epoch of seed 0 would repeat the first epoch of seed 1."""
    return int.from_bytes(hashlib.sha256(f"data order {seed}".encode()).digest()[:4], "big")
