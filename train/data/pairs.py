"""The data of a run on pairs: rows of S places of source and T of target, each with as many whole pairs as fit.

The documents of a prepared corpus of pairs are source, target, source, target. Rows are packed once and for all: those
to learn from in an order drawn by a fixed seed, those to be measured on document by document, so that each is of one.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.train.config import TrainConfig
from kleiber.train.data.corpora.prepared import read_corpus_manifest
from kleiber.train.data.source import Source
from kleiber.train.data.tokens import TokenFile, open_token_file
from kleiber.train.data.windows import check_vocabulary, encoded_folder, wrong_kind

if TYPE_CHECKING:
    from kleiber.train.data.batch import Batch

PACKING_SEED = 20_231  # fixes which pairs to learn from share a row, for every run
OPEN_ROWS = 64
"""Rows that a pair may still go to: more fill them better and take longer."""
MOST_TOO_LONG = 0.01
"""Of the pairs, that may be left out because they fit no row."""


@dataclass(frozen=True, eq=False)
class PairSource(Source):
    """A split of pairs, packed into rows."""

    file: TokenFile
    source_len: int
    """S."""
    seq_len: int
    """T."""
    corpus: str
    split: str

    @property
    def num_sequences(self) -> int:
        """Rows."""
        return len(self.rows.groups)

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self.file.vocab_size

    @property
    def fingerprint(self) -> str:
        """Equal only for equal text of all splits and equal tokenizer; goes into the run record."""
        return self.file.fingerprint

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64 [pairs, 2], tokens of source and target, the separator behind each included."""
        return np.diff(self.file.offsets).reshape(-1, 2)

    @functools.cached_property
    def rows(self) -> "Rows":
        """All of them."""
        limits = (self.source_len, self.seq_len)
        chosen = np.flatnonzero((self.lengths <= limits).all(axis=1))
        groups = self.file.groups[::2]
        if self.split == "train":
            chosen = np.random.default_rng(PACKING_SEED).permutation(chosen)
            row_of_pair = pack(self.lengths[chosen], limits)
        else:
            chosen = chosen[np.argsort(groups[chosen], kind="stable")]
            row_of_pair = pack(self.lengths[chosen], limits, groups[chosen])
        return fill_rows(self.file, chosen, row_of_pair, limits, groups)

    @property
    def num_targets(self) -> int:
        """Target tokens of all rows, which carry the loss."""
        return int((self.rows.segments[:, self.source_len :] > 0).sum())

    def batch(self, config: TrainConfig, indices: np.ndarray, newlines: frozenset[int] = frozenset()) -> "Batch":
        """Returns rows [...] as a Batch: inputs int32 [..., S + T], each target shifted behind its separator; targets
        int32 and weights float32 [..., T]; segments int32 [..., S + T], the number of the pair, 0 where there is none.
        """
        from kleiber.train.data.batch import Batch  # and with it jax, which opening tokens does without

        segments = self.rows.segments[indices].astype(np.int32)
        weights = (segments[..., self.source_len :] > 0).astype(np.float32)
        inputs, targets = (each[indices].astype(np.int32) for each in (self.rows.inputs, self.rows.targets))
        return Batch(inputs, targets, weights, segments)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.rows.inputs[index]


@dataclass(frozen=True, eq=False)
class Rows:
    """Packed pairs."""

    inputs: np.ndarray
    """uint16 [rows, S + T]."""
    targets: np.ndarray
    """uint16 [rows, T]."""
    segments: np.ndarray
    """uint8 [rows, S + T]."""
    groups: np.ndarray
    """int32 [rows], the document of the first pair in each."""


def pack(lengths: np.ndarray, limits: tuple[int, int], groups: np.ndarray | None = None) -> np.ndarray:
    """Returns the row of each pair, int64 [pairs]: the first of OPEN_ROWS that has room on both sides.

    Args:
      lengths: int [pairs, 2], none above the limits.
      limits: places of source and of target in a row.
      groups: int [pairs], increasing: pairs of unlike ones share no row. None lets all share.
    """
    found, count, last = np.zeros(len(lengths), np.int64), 0, None
    open_rows: list[list[int]] = []
    for pair, (source, target) in enumerate(lengths.tolist()):
        if groups is not None and groups[pair] != last:
            open_rows, last = [], groups[pair]
        row = next((each for each in open_rows if each[1] >= source and each[2] >= target and each[3] < 255), None)
        if row is None:
            row = [count, *limits, 0]
            open_rows = [*open_rows[-OPEN_ROWS + 1 :], row]
            count += 1
        found[pair] = row[0]
        row[1], row[2], row[3] = row[1] - source, row[2] - target, row[3] + 1
    return found


def fill_rows(
    file: TokenFile, chosen: np.ndarray, row_of_pair: np.ndarray, limits: tuple[int, int], groups: np.ndarray
) -> Rows:
    """Returns the rows of pairs.

    Args:
      file: their tokens.
      chosen: int [pairs], their numbers in the file.
      row_of_pair: int [pairs], from `pack`.
      limits: places of source and of target in a row.
      groups: int [all pairs of the file], their documents.
    """
    order = np.argsort(row_of_pair, kind="stable")
    chosen, row_of_pair = chosen[order], row_of_pair[order]
    num_rows, (num_source, num_target) = int(row_of_pair[-1]) + 1 if len(chosen) else 0, limits
    first = np.searchsorted(row_of_pair, np.arange(num_rows))
    number = np.arange(len(chosen)) - first[row_of_pair] + 1
    inputs = np.zeros((num_rows, num_source + num_target), np.uint16)
    segments, targets = np.zeros(inputs.shape, np.uint8), np.zeros((num_rows, num_target), np.uint16)
    for side, start in ((0, 0), (1, num_source)):
        begins = file.offsets[2 * chosen + side]
        lengths = file.offsets[2 * chosen + side + 1] - begins
        ends = np.cumsum(lengths)
        before = np.concatenate([[0], ends])  # places of all pairs before, of which those of its own row count
        in_row = before[:-1] - before[first[row_of_pair]]
        pair = np.repeat(np.arange(len(chosen)), lengths)
        within = np.arange(len(pair)) - np.repeat(before[:-1], lengths)
        rows, places = row_of_pair[pair], start + in_row[pair] + within
        tokens = file.tokens[begins[pair] + within]
        segments[rows, places] = number[pair]
        if side == 0:
            inputs[rows, places] = tokens
        else:
            targets[rows, places - start] = tokens
            shifted = np.concatenate([[0], tokens[:-1]])
            shifted[before[:-1]] = tokens[ends - 1]  # the separator stands in front of the first
            inputs[rows, places] = shifted
    return Rows(inputs, targets, segments, groups[chosen[first]].astype(np.int32))


def open_pairs(config: TrainConfig, split: str) -> PairSource:
    """Returns a split of the corpus of a run as packed pairs, preparing what is missing if that needs no download.
    Raises ValueError: the user must prepare it first, it holds no pairs, too many are longer than a row, or its
    vocabulary is not the model's."""
    folder = encoded_folder(config.data)
    source = pairs_of(config, folder, config.data.corpus, split)
    check_vocabulary(source, config.model)
    if split == "train":
        check_lengths(source, config.model)
    return source


def pairs_of(config: TrainConfig, folder: Path, name: str, split: str) -> PairSource:
    """Returns a split of a prepared corpus. Raises ValueError if it holds no pairs, or is damaged."""
    if "pairs" not in read_corpus_manifest(folder):
        raise ValueError(wrong_kind(name, has_pairs=False))
    assert config.model.encoder is not None
    file = open_token_file(folder, config.data.tokenizer, split)
    return PairSource(file, config.model.encoder.seq_len, config.model.seq_len, name, split)


def check_lengths(source: PairSource, model: ModelConfig) -> None:
    """Checks that hardly a pair is longer than a row. Raises ValueError saying how many are, and what to set."""
    limits = (source.source_len, source.seq_len)
    is_too_long = np.any(source.lengths > np.array(limits), axis=1)
    if is_too_long.mean() <= MOST_TOO_LONG:
        return
    # Half of what may be left out for each side.
    needed = np.quantile(source.lengths, 1 - MOST_TOO_LONG / 2, axis=0, method="higher")
    wanted = [max(limit, -(-int(each) // 8) * 8) for limit, each in zip(limits, needed, strict=True)]
    raise ValueError(
        f"{is_too_long.sum():,} of {len(is_too_long):,} pairs of {source.corpus} ({is_too_long.mean():.1%}) are longer "
        f"than a row of {limits[0]} tokens of source and {limits[1]} of target, expected at most {MOST_TOO_LONG:.0%}: "
        f"set model.encoder.seq_len={wanted[0]} and model.seq_len={wanted[1]}, or leave long pairs out"
    )


def held_out_pairs(config: TrainConfig, validation: PairSource) -> dict[str, Any]:
    """Returns the fields of HeldOut: rows of evaluation.num_tokens places of target, spread evenly, or all where there
    are fewer."""
    count = min(validation.num_sequences, max(1, config.evaluation.num_tokens // validation.seq_len))
    indices = np.arange(count, dtype=np.int64) * validation.num_sequences // count
    told = validation.batch(config, indices)
    kept = {"windows": told.inputs, "targets": told.targets, "segments": told.segments, "weights": told.weights}
    return {"validation": validation, "groups": validation.rows.groups[indices], **kept}
