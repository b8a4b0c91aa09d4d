"""Pairs of texts: cleaned, split by document without leaks, and laid into records as source, target, source, target."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kleiber.train.data.corpora.documents import DOCUMENTS_PER_RECORD, Group

HELD_OUT = 0.04
"""Of the pairs, in whole documents, for `validation` and again for `test`, where nothing else says which they are."""
FEWEST_PAIRS, FEWEST_DOCUMENTS = 100, 3


class Pair(NamedTuple):
    """A text and what becomes of it."""

    source: str
    target: str
    document: str = ""
    """What it is part of: pairs of one document stand on one side of a split. Empty if it stands alone."""

    @property
    def place(self) -> str:
        """What decides on which side of a split it stands."""
        return self.document or self.source


@dataclass(frozen=True)
class PairCorpus:
    """Pairs as they were read."""

    pairs: Sequence[Pair]
    languages: tuple[str, str] = ("", "")
    """Codes such as en and zh; empty where nobody said."""
    test_documents: frozenset[str] = frozenset()
    """Those of an official test split; empty where there is none."""


def clean(text: str) -> str:
    """Returns a text in one line, its blanks single."""
    return " ".join(text.split())


def distinct(pairs: Iterable[Pair]) -> list[Pair]:
    """Returns each pair of texts once, where it stands first."""
    seen: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        seen.setdefault((pair.source, pair.target), pair)
    return list(seen.values())


def split_pairs(found: PairCorpus, where: str) -> tuple[dict[str, list[Pair]], dict[str, int]]:
    """Returns (the splits `train`, `validation` and `test`; how many pairs were left out as `copies` of others, and as
    `leaks`: pairs to learn from with a source or a target that is held out, or to validate on that is tested).

    Args:
      found: the pairs.
      where: file or package, for messages.

    Raises:
      ValueError: there are too few, of too few documents.
    """
    pairs = distinct(found.pairs)
    sizes: dict[str, int] = {}
    for pair in pairs:
        sizes[pair.place] = sizes.get(pair.place, 0) + 1
    if len(pairs) < FEWEST_PAIRS or len(sizes) < FEWEST_DOCUMENTS:
        raise ValueError(
            f"{where} holds {len(pairs)} distinct pairs of {len(sizes)} documents, expected at least {FEWEST_PAIRS} of "
            f"{FEWEST_DOCUMENTS}: some are held out to be measured on."
        )
    test = set(found.test_documents) or _smallest_hashes(sizes, len(pairs))
    validation = _smallest_hashes({name: size for name, size in sizes.items() if name not in test}, len(pairs))
    splits: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        splits["test" if pair.place in test else "validation" if pair.place in validation else "train"].append(pair)
    kept, num_leaks = {"test": splits["test"]}, 0
    held_out: tuple[set[str], set[str]] = (set(), set())
    for name, above in (("validation", "test"), ("train", "validation")):
        for texts, side in zip(held_out, zip(*((p.source, p.target) for p in kept[above]), strict=True), strict=True):
            texts.update(side)
        kept[name] = [p for p in splits[name] if p.source not in held_out[0] and p.target not in held_out[1]]
        num_leaks += len(splits[name]) - len(kept[name])
        if not kept[name]:
            raise ValueError(f"{where}: nothing is left of split '{name}' once the pairs that leak are out.")
    return {name: kept[name] for name in splits}, {"copies": len(found.pairs) - len(pairs), "leaks": num_leaks}


def _smallest_hashes(sizes: dict[str, int], num_pairs: int) -> set[str]:
    """Returns the documents of smallest SHA-256 that together hold HELD_OUT of so many pairs, at least one of them."""
    chosen: set[str] = set()
    count = 0
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if chosen and count >= HELD_OUT * num_pairs:
            break
        chosen.add(name)
        count += sizes[name]
    return chosen


def groups_of(pairs: Sequence[Pair]) -> list[Group]:
    """Returns pairs as groups of documents: each source and behind it its target; those that stand alone by the
    record, whose number of documents is even, so that none is torn."""
    named: dict[str, list[str]] = {}
    for pair in pairs:
        named.setdefault(pair.document, []).extend((pair.source, pair.target))
    alone = named.pop("", [])
    chunks = [alone[start : start + DOCUMENTS_PER_RECORD] for start in range(0, len(alone), DOCUMENTS_PER_RECORD)]
    return [Group("", tuple(chunk)) for chunk in chunks] + [Group(name, tuple(each)) for name, each in named.items()]
