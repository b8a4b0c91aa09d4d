"""What the weights of a run on pairs make of sources, and the pairs to compare it with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kleiber.model.decode.beam import Beam
from kleiber.model.decode.beam import translate as search
from kleiber.train.config import TrainConfig
from kleiber.train.data.corpora.pairs.reading import names_pairs, read_pairs
from kleiber.train.data.corpora.prepared import read_corpus_manifest
from kleiber.train.data.pairs import pairs_of
from kleiber.train.data.run_data import find_encoded
from kleiber.train.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class HeldOutPairs:
    """Texts and what becomes of them."""

    name: str
    """Of the corpus and its split, or of the file."""
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    documents: np.ndarray
    """int [n]."""
    language: str
    """Of the targets."""

    def evenly(self, most: int | None) -> "HeldOutPairs":
        """Returns so many of them, spread evenly; all where there are no more, or None is asked for. Raises ValueError
        if fewer than one is."""
        count = len(self.sources)
        if most is None or most >= count:
            return self
        if most < 1:
            raise ValueError(f"{most} pairs to translate, expected 1 to {count}.")
        chosen = np.arange(most) * count // most
        sources, targets = (tuple(each[n] for n in chosen) for each in (self.sources, self.targets))
        return HeldOutPairs(self.name, sources, targets, self.documents[chosen], self.language)


def held_out_pairs(config: TrainConfig, fingerprint: str, split: str, tokenizer: Tokenizer) -> HeldOutPairs:
    """Returns the pairs of a split of the corpus that a run was trained on. Raises ValueError: they are not prepared
    here, or there is no such split.

    Args:
      config: of the run.
      fingerprint: data_fingerprint of its record.
      split: `test`, `validation` or `train`.
      tokenizer: of the run.
    """
    folder = find_encoded(config, fingerprint)
    file = pairs_of(config, folder, config.data.corpus, split).file
    parts = np.split(np.asarray(file.tokens), file.offsets[1:-1])
    texts = [tokenizer.decode(part[:-1].astype(np.int64)).decode() for part in parts]
    language = read_corpus_manifest(folder)["pairs"]["target"]
    name = f"{config.data.corpus}, {split}"
    return HeldOutPairs(name, tuple(texts[::2]), tuple(texts[1::2]), file.groups[::2], language)


def pairs_of_file(location: str) -> HeldOutPairs:
    """Returns the pairs of `PATH.tsv` or `PATH::PATH`. Raises ValueError: it is none, or a pair lacks a side."""
    if not names_pairs(location):
        raise ValueError(f"{location} names no pairs, expected a PATH.tsv (source, tab, target) or PATH::PATH.")
    found = read_pairs(location)
    sources, targets = zip(*((pair.source, pair.target) for pair in found.pairs), strict=True)
    numbers: dict[str, int] = {}
    places = [pair.document or f"{n}" for n, pair in enumerate(found.pairs)]
    documents = np.array([numbers.setdefault(place, len(numbers)) for place in places])
    return HeldOutPairs(location, sources, targets, documents, found.languages[1])


def translate(
    config: TrainConfig, params: Any, tokenizer: Tokenizer, texts: Sequence[str], beam: Beam
) -> tuple[list[str], int]:
    """Returns (what a run on pairs makes of each text; how many were longer than its encoder reads, and lost the end).

    Args:
      config: of the run.
      params: tree of its weights.
      tokenizer: of its text.
      texts: sources.
      beam: how to search.
    """
    assert config.model.encoder is not None, "a run on pairs has an encoder"
    encoded, places = tokenizer.encode([text.encode() for text in texts]), config.model.encoder.seq_len
    end = int(tokenizer.encode([b""])[0][-1])
    sources = [ids if len(ids) <= places else np.append(ids[: places - 1], end) for ids in encoded]
    found = search(config.model, params, sources, end, beam)
    num_cut = sum(len(ids) > places for ids in encoded)
    return [tokenizer.decode(ids).decode(errors="replace") for ids in found], num_cut
