"""The data of one run: its training windows, the fixed validation windows, and what the run record says of both."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.files import read_json
from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.batches import check_enough
from kleiber.train.data.cache import cache_folder
from kleiber.train.data.corpora.catalogue import find_corpus, prepared_folder
from kleiber.train.data.corpora.prepared import read_corpus_manifest
from kleiber.train.data.images import ImageSource, find_images, open_images
from kleiber.train.data.mixture import MixedSource
from kleiber.train.data.pairs import held_out_pairs, open_pairs, pairs_of
from kleiber.train.data.source import Source
from kleiber.train.data.tokenizers import read_model, stored_tokenizer, tokenizer_home
from kleiber.train.data.tokens import open_token_file
from kleiber.train.data.windows import TokenSource, check_vocabulary, open_tokens, validation_windows


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a run is scored on."""

    validation: Source
    windows: np.ndarray
    """int32 [windows, seq_len + 1], the same for every run of an experiment; of images, uint8 [images, H, W, C]; of
    pairs int32 [rows, S + T]."""
    groups: np.ndarray
    """int32 [windows], document group of each window."""
    segments: np.ndarray | None
    """int32 [windows, seq_len + 1] document of each token, when attention stops at document boundaries."""
    weights: np.ndarray | None = None
    """float32 [windows, seq_len] of each target, where they do not count alike."""
    targets: np.ndarray | None = None
    """int32 [windows, seq_len], where they are not the tokens of the windows."""

    @property
    def rows(self) -> Batch:
        """All of them as one batch."""
        return Batch(self.windows, self.targets, self.weights, self.segments)

    @property
    def num_validation_bytes(self) -> int | None:
        """Bytes of text that the windows stand for: of tokens, as many as they have on average. None of images."""
        if not isinstance(self.validation, TokenSource):
            return None
        text, (rows, length) = self.validation, self.windows.shape
        if rows == text.num_sequences:
            return text.file.num_text_bytes  # all of it, but for the last few tokens that fill no window
        return round(rows * (length - 1) * text.bytes_per_token)

    def bits_per_byte(self, loss: float) -> float | None:
        """Returns a loss in nats per token as bits per byte of validation text, None of images."""
        text = self.validation
        return loss / math.log(2) / text.bytes_per_token if isinstance(text, TokenSource) else None


@dataclass(frozen=True, kw_only=True)
class RunData(HeldOut):
    """Everything a trunk reads."""

    train: Source
    num_unique_tokens: int
    """Training tokens available without repetition."""
    split_overlap: float | None = None
    """Part of the validation text's 64-byte windows that also stand in the training text, as measured when the corpus
    was prepared; None where that was not."""
    tokenizer_model: bytes = b""
    """That text is encoded with, for whoever keeps the weights; none for bytes."""
    newlines: frozenset[int] = frozenset()
    """Ids of the tokens that end a line, for the objective `label`."""
    elsewhere: dict[str, HeldOut] = field(default_factory=dict)
    """By corpus, what every point is measured on besides."""

    def seen(self, num_tokens: int) -> tuple[float, int]:
        """Returns (passes over the training text, of the corpus with most of them; distinct tokens) of training on so
        many tokens."""
        parts = self.train.parts
        uniques = [self.num_unique_tokens, *(part.num_sequences * part.seq_len for part, _ in parts[1:])]
        drawn = [num_tokens * share for _, share in parts]
        epochs = max(one / unique for one, unique in zip(drawn, uniques, strict=True))
        return epochs, round(sum(min(one, unique) for one, unique in zip(drawn, uniques, strict=True)))


def open_run_data(config: TrainConfig) -> RunData:
    """Returns the data of a run, checked against its plan. Raises ValueError: model and data disagree, or the corpus is
    shorter than the plan needs."""
    open_data = _open_image_data if config.model.image else _open_pair_data if config.model.encoder else _open_text_data
    data = open_data(config)
    last = (config.guard.batch_number(config.steps_at(config.num_tokens[-1]) - 1) + 1) * config.tokens_per_step
    check_enough(data.train, last, config.data.max_epochs, config.data.num_unique_tokens)
    return data


def _open_image_data(config: TrainConfig) -> RunData:
    train, validation = open_images(config, "train"), open_images(config, "validation")
    return RunData(
        **_held_out_images(config, validation),
        train=train,
        num_unique_tokens=train.num_unique_tokens(config.data),
        split_overlap=_split_overlap(prepared_folder(find_corpus(config.data.corpus))),
    )


def _held_out_images(config: TrainConfig, validation: ImageSource) -> dict[str, Any]:
    """Returns the fields of HeldOut: evaluation.num_tokens images, spread evenly, or all where there are fewer."""
    count = min(validation.num_sequences, config.evaluation.num_tokens)
    indices = np.arange(count, dtype=np.int64) * validation.num_sequences // count
    told = validation.batch(config, indices)
    kept = {"windows": told.inputs, "targets": told.targets, "segments": None}
    return {"validation": validation, "groups": np.arange(count, dtype=np.int32), **kept}


def _of_text(config: TrainConfig, train: Source, folder: Path | None) -> dict[str, Any]:
    """Returns the fields of RunData that any prepared text has."""
    return {
        "train": train,
        "num_unique_tokens": train.num_unique_tokens(config.data),
        "split_overlap": _split_overlap(folder),
        "tokenizer_model": _tokenizer_model(config, folder),
    }


def _open_pair_data(config: TrainConfig) -> RunData:
    train, validation = open_pairs(config, "train"), open_pairs(config, "validation")
    folder = prepared_folder(find_corpus(config.data.corpus))
    return RunData(
        **held_out_pairs(config, validation),
        **_of_text(config, train, folder),
    )


def _open_text_data(config: TrainConfig) -> RunData:
    train: Source = open_tokens(config.data, "train", config.model.seq_len)
    validation = open_tokens(config.data, "validation", config.model.seq_len)
    check_vocabulary(train, config.model)
    if mixture := config.data.mixture:
        datas = [replace(config.data, corpus=name, mixture=()) for name, _ in mixture]
        others = [open_tokens(data, "train", config.model.seq_len) for data in datas]
        shares = [share for _, share in mixture]
        train = MixedSource((train, *others), (1 - sum(shares), *shares))
    if config.evaluation.num_bytes and config.data.tokenizer != "bytes":  # by which the text of all is measured off
        open_tokens(replace(config.data, tokenizer="bytes"), "validation", config.model.seq_len)
    folder = prepared_folder(find_corpus(config.data.corpus))
    return RunData(
        **_held_out(config, validation, folder),
        **_of_text(config, train, folder),
        newlines=line_ends(config, folder),
        elsewhere={name: _held_out_of(config, name) for name in config.evaluation.also},
    )


def _held_out_of(config: TrainConfig, corpus: str) -> HeldOut:
    """Returns the validation windows of another corpus, as many as of the run's own."""
    config = replace(config, data=replace(config.data, corpus=corpus, mixture=(), num_unique_tokens=None))
    validation = open_tokens(config.data, "validation", config.model.seq_len)
    return HeldOut(**_held_out(config, validation, prepared_folder(find_corpus(corpus))))


def open_held_out(config: TrainConfig, fingerprint: str) -> HeldOut:
    """Returns the validation windows of a run that was trained, found by its data_fingerprint wherever its text lay.

    Raises:
      ValueError: the cache holds no such text; says how to make it.
    """
    data = config.data
    if config.model.image:
        found = find_images(fingerprint, data.corpus, "validation")
        return HeldOut(**_held_out_images(config, found))
    folder = find_encoded(config, fingerprint)
    if config.model.encoder:
        return HeldOut(**held_out_pairs(config, pairs_of(config, folder, data.corpus, "validation")))
    file = open_token_file(folder, data.tokenizer, "validation")
    source = TokenSource(file, config.model.seq_len, data.corpus, "validation")
    return HeldOut(**_held_out(config, source, folder))


def find_encoded(config: TrainConfig, fingerprint: str) -> Path:
    """Returns the folder of the prepared text with a fingerprint, wherever it lay. Raises ValueError if the cache holds
    none; says how to make it."""
    data = config.data
    for path in (cache_folder() / "corpora").glob(f"*/*/tokens/{data.tokenizer.replace(':', '-')}/tokens.json"):
        if read_json(path).get("fingerprint") == fingerprint:
            return path.parents[2]
    raise ValueError(
        f"the validation text of this run is not prepared here ({fingerprint}, in {cache_folder()}): "
        f"kleiber data prepare {data.corpus} --tokenizer {data.tokenizer}"
    )


def _held_out(config: TrainConfig, validation: TokenSource, folder: Path | None) -> dict[str, Any]:
    """Returns the fields of HeldOut, given where the corpus is prepared."""
    wanted = config.evaluation.num_tokens
    if config.evaluation.num_bytes and folder:
        validation = _same_text(config, validation, folder)
        wanted = validation.num_tokens
    chosen = validation_windows(validation, wanted)
    told = validation.batch(config, chosen.indices, line_ends(config, folder))
    if told.weights is not None and not told.weights.any():
        raise ValueError(
            f"objective 'label' learns the last line of documents of several lines, and {config.data.corpus} has none "
            f"to be measured on; give a file such as train.jsonl#text+label, or objective='next_token'."
        )
    kept = {"segments": told.segments, "weights": told.weights}
    return {"validation": validation, "windows": chosen.tokens, "groups": chosen.groups, **kept}


def line_ends(config: TrainConfig, folder: Path | None) -> frozenset[int]:
    """Returns the ids of the tokens that end a line, where the objective asks for them."""
    if config.objective != "label":
        return frozenset()
    name = config.data.tokenizer
    return stored_tokenizer(name, _tokenizer_model(config, folder)).line_ends


def _tokenizer_model(config: TrainConfig, folder: Path | None) -> bytes:
    """Returns the model of a tokenizer that was trained on the corpus in a folder; none for bytes."""
    name = config.data.tokenizer
    return b"" if name == "bytes" or folder is None else read_model(tokenizer_home(folder, name))


def _same_text(config: TrainConfig, validation: TokenSource, folder: Path) -> TokenSource:
    """Returns about evaluation.num_bytes bytes of a split in whole documents, the same for every tokenizer.

    They are spread evenly over the split's documents; the bytes of each are those of the tokenizer `bytes`.
    """
    lengths, tokens = np.diff(open_token_file(folder, "bytes", "validation").offsets), validation.file
    count = len(lengths)
    number = min(count, max(1, round((config.evaluation.num_bytes or 0) / lengths.mean())))
    chosen = np.arange(number, dtype=np.int64) * count // number
    parts = [tokens.tokens[tokens.offsets[each] : tokens.offsets[each + 1]] for each in chosen]
    text = replace(
        tokens,
        tokens=np.concatenate(parts),
        offsets=np.concatenate([[0], np.cumsum([len(part) for part in parts])]),
        groups=tokens.groups[chosen],
        num_text_bytes=int(lengths[chosen].sum()),
    )
    found = replace(validation, file=text)
    if found.num_sequences < 1:
        raise ValueError(
            f"evaluation.num_bytes {config.evaluation.num_bytes} is less than one window of {config.model.seq_len} "
            f"tokens of {config.data.corpus}; ask for more bytes."
        )
    return found


def _split_overlap(folder: Path | None) -> float | None:
    overlap = read_corpus_manifest(folder).get("overlap", {}) if folder else {}
    return overlap.get("fraction_also_in_train", {}).get("validation")
