"""What the weights of a run on pairs make of sources that it has not seen, and how near that comes to their targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.train.data.corpora.pairs.reading import names_pairs, read_pairs
from kleiber.train.scores.translation import score_translations

if TYPE_CHECKING:
    from kleiber.experiments.api.runs import Run

SHOWN = 10
"""Pairs that are told in full."""


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
        """Returns so many of them, spread evenly; all where there are no more, or None is asked for."""
        count = len(self.sources)
        if most is None or most >= count:
            return self
        chosen = np.arange(most) * count // most
        texts = (tuple(each[n] for n in chosen) for each in (self.sources, self.targets))
        return HeldOutPairs(self.name, *texts, self.documents[chosen], self.language)


def held_out_pairs(run: "Run", split: str) -> HeldOutPairs:
    """Returns the pairs of a split of the corpus that a run was trained on. Raises ValueError: they are not prepared
    here, or there is no such split."""
    from kleiber.train.data.corpora.prepared import read_corpus_manifest
    from kleiber.train.data.pairs import pairs_of
    from kleiber.train.data.run_data import find_encoded

    folder = find_encoded(run.config, run.record["data_fingerprint"])
    found = pairs_of(run.config, folder, run.config.data.corpus, split)
    file, tokenizer = found.file, run.tokenizer
    parts = np.split(np.asarray(file.tokens), file.offsets[1:-1])
    texts = [tokenizer.decode(part[:-1].astype(np.int64)).decode() for part in parts]
    language = read_corpus_manifest(folder)["pairs"]["target"]
    name = f"{run.config.data.corpus}, {split}"
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


def translate(run: "Run", texts: Sequence[str], width: int = 4, length_penalty: float = 0.6) -> tuple[list[str], int]:
    """Returns (what a run on pairs makes of each text; how many were longer than its encoder reads, and lost the end).

    Args:
      run: with weights.
      texts: sources.
      width: of the beam; 1 takes the likeliest token at each place.
      length_penalty: as kleiber.model.decode.beam.Beam.

    Raises:
      ValueError: the run is none on pairs.
    """
    from kleiber.model.decode.beam import Beam
    from kleiber.model.decode.beam import translate as search

    model = run.config.model
    if model.encoder is None:
        raise ValueError(f"{run.name} is a {model.family}, which reads no source: `kleiber generate` writes on.")
    encoded = run.tokenizer.encode([text.encode() for text in texts])
    end, places = int(run.tokenizer.encode([b""])[0][-1]), model.encoder.seq_len
    sources = [ids if len(ids) <= places else np.append(ids[: places - 1], end) for ids in encoded]
    found = search(model, run.tree, sources, end, Beam(width, length_penalty))
    num_cut = sum(len(ids) > places for ids in encoded)
    return [run.tokenizer.decode(ids).decode(errors="replace") for ids in found], num_cut


def score_pairs(run: "Run", test: HeldOutPairs, width: int = 4) -> dict[str, Any]:
    """Returns how near what a run makes of sources comes to their targets, beside copying the source.

    Args:
      run: on pairs, with weights.
      test: to be translated.
      width: of the beam.

    Returns:
      As `kleiber score --json` (docs/json.md).
    """
    told, num_cut = translate(run, test.sources, width)
    about = {
        "run": run.name,
        "pairs": test.name,
        "num_pairs": len(test.sources),
        "num_documents": len(np.unique(test.documents)),
        "num_cut": num_cut,
        "beam": width,
    }
    found = score_translations(test.targets, {"model": told, "copy": test.sources}, test.documents, test.language)
    shown = np.arange(min(SHOWN, len(told))) * len(told) // min(SHOWN, len(told))
    examples = [{"source": test.sources[n], "target": test.targets[n], "model": told[n]} for n in shown]
    return {**about, **found, "examples": examples}
