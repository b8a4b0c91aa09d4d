"""Windows: a split as overlapping pieces of seq_len + 1 tokens with random access.

Inputs are window[:-1] and targets window[1:]; the next window starts seq_len later, so every token is a target once.
Windows are cut without regard to documents: TokenSource.segment_ids says where each begins, for attention that stops
there (DataConfig.document_attention); without it a packed window sees the documents before. Opening prepared tokens
needs numpy only.
"""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, TrainConfig
from kleiber.train.data.corpora.catalogue import find_corpus, prepare_corpus, prepared_folder
from kleiber.train.data.corpora.prepared import read_corpus_manifest
from kleiber.train.data.source import Source
from kleiber.train.data.tokens import TokenFile, has_tokens, open_token_file, prepare_tokens

if TYPE_CHECKING:
    from kleiber.train.data.batch import Batch


class ValidationWindows(NamedTuple):
    """The fixed windows that every run is scored on."""

    tokens: np.ndarray
    """int32 [windows, seq_len + 1]."""
    groups: np.ndarray
    """int32 [windows], the group (service, article or document) in the middle of the window: clusters of the loss."""
    indices: np.ndarray
    """int64 [windows], for TokenSource.segment_ids."""


@dataclass(frozen=True, eq=False)
class TokenSource(Source):
    """A split as windows with random access."""

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

    def batch(self, config: TrainConfig, indices: np.ndarray, newlines: frozenset[int]) -> "Batch":
        """Returns windows [...] as a Batch, with all that the objective needs of them; newlines are the ids of the
        tokens that end a line, for the objective `label`."""
        segments = self.segment_ids(indices) if config.data.document_attention else None
        weights = self.label_weights(indices, newlines) if config.objective == "label" else None
        from kleiber.train.data.batch import Batch  # and with it jax, which opening tokens does without

        return Batch(self.windows(indices), weights=weights, segments=segments)

    def windows(self, indices: np.ndarray) -> np.ndarray:
        """Returns the tokens of windows [...], int32 [..., seq_len + 1]."""
        return self.file.tokens[self._positions(indices)].astype(np.int32)

    def segment_ids(self, indices: np.ndarray) -> np.ndarray:
        """Returns which document of its window each token of windows [...] belongs to, int32 [..., seq_len + 1],
        counted from 0; a separator ends its document."""
        documents = self._documents(self._positions(indices))
        return (documents - documents[..., :1]).astype(np.int32)

    def label_weights(self, indices: np.ndarray, newlines: frozenset[int]) -> np.ndarray:
        """Returns 1 for each target of windows [...] that belongs to the last line of a document of several lines, its
        separator included, else 0: float32 [..., seq_len].

        Args:
          indices: of the windows.
          newlines: ids of the tokens that end a line.
        """
        starts = self._label_starts(newlines)
        targets = self._positions(indices)[..., 1:]
        return (targets >= starts[self._documents(targets)]).astype(np.float32)

    @functools.lru_cache(maxsize=2)  # noqa: B019 (a source lives as long as its run)
    def _label_starts(self, newlines: frozenset[int]) -> np.ndarray:
        """Returns where the last line of each document begins, int64 [documents]; its end where it has but one."""
        ends = self.file.offsets[1:]
        lines = np.flatnonzero(np.isin(self.file.tokens, list(newlines)))
        lines = np.concatenate([[-1], lines[~np.isin(lines + 1, ends)]])  # a separator ends no line before the last
        last = lines[np.searchsorted(lines, ends) - 1] + 1
        return np.where(last > self.file.offsets[:-1], last, ends)

    def window_groups(self, indices: np.ndarray) -> np.ndarray:
        """Returns the group of the document in the middle of each window [windows], int32 [windows]."""
        return self.file.groups[self._documents(self._positions(indices)[..., self.seq_len // 2])]

    def _positions(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(indices, np.int64)[..., None] * self.seq_len + np.arange(self.seq_len + 1)

    def _documents(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.file.offsets, positions, side="right") - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.windows(np.array(index))


def open_tokens(data: DataConfig, split: str, seq_len: int) -> TokenSource:
    """Returns a split (`train`, `validation`, or another of the manifest) of a corpus as windows, preparing what is
    missing if that needs no download. Raises ValueError if the user must prepare the corpus first, or it is damaged, or
    shorter than one window."""
    folder = encoded_folder(data)
    if "pairs" in read_corpus_manifest(folder):
        raise ValueError(wrong_kind(data.corpus, has_pairs=True))
    file = open_token_file(folder, data.tokenizer, split)
    source = TokenSource(file, seq_len, data.corpus, split)
    if source.num_sequences < 1:
        raise ValueError(
            f"split '{split}' of {data.corpus} has {source.num_tokens} tokens, fewer than one window of seq_len + 1 = "
            f"{seq_len + 1}; use more text or a smaller seq_len."
        )
    return source


def encoded_folder(data: DataConfig) -> Path:
    """Returns the folder of a corpus that is prepared and encoded, making what is missing if that needs no download.
    Raises ValueError if the user must prepare the corpus first."""
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
    return folder


def wrong_kind(corpus: str, has_pairs: bool) -> str:
    """Returns why a corpus is not what a model reads, which has or has not pairs."""
    if has_pairs:
        return (
            f"corpus {corpus} holds pairs of texts, which a model of family 'encoder_decoder' reads: set model.family "
            f"and model.encoder, or choose another corpus"
        )
    return (
        f"corpus {corpus} holds text, and the model reads pairs; set data.corpus to ua-gec, office-help-en-zh, a "
        f"PATH.tsv or PATH::PATH, or choose another model.family"
    )


def report_to_stderr(line: str) -> None:
    """Prints a line of progress where it cannot disturb `--json`."""
    print(line, file=sys.stderr, flush=True)


def check_vocabulary(source: Any, model: ModelConfig) -> None:
    """Checks that every token id has a row in the model's embedding and none is left over. Raises ValueError if
    vocab_size of the data and of the model differ."""
    if source.vocab_size != model.vocab_size:
        raise ValueError(
            f"vocabulary and data disagree: tokenizer '{source.file.tokenizer}' has {source.vocab_size} ids, "
            f"ModelConfig.vocab_size is {model.vocab_size}; set ModelConfig.vocab_size={source.vocab_size} or choose "
            f"another DataConfig.tokenizer."
        )


def validation_windows(source: TokenSource, num_tokens: int) -> ValidationWindows:
    """Returns max(1, num_tokens // seq_len) windows spread evenly over a held-out split, or all where it holds fewer:
    the same whenever, and for whatever run, they are asked for."""
    wanted = min(source.num_sequences, max(1, num_tokens // source.seq_len))
    indices = np.arange(wanted, dtype=np.int64) * source.num_sequences // wanted
    return ValidationWindows(source.windows(indices), source.window_groups(indices), indices)
