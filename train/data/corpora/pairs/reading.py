"""Pairs of the user's own: a table of tabs, or two files whose lines belong together."""

import re
from pathlib import Path

from kleiber.train.data.corpora.pairs.aligned import Pair, PairCorpus, clean
from kleiber.train.data.corpora.text_file.reading import read_text

BETWEEN = "::"
"""Between the names of two files."""
TABLE = re.compile(r"\.tsv(\.gz|\.bz2|\.xz)?$")
LANGUAGE = re.compile(r"[a-z]{2,3}")


def names_pairs(location: str) -> bool:
    """Returns whether a corpus of this name is a file, or two, of pairs."""
    return BETWEEN in location or bool(TABLE.search(location))


def read_pairs(location: str) -> PairCorpus:
    """Returns the pairs of `PATH.tsv` or of `PATH::PATH`. Raises ValueError: a side of a pair is missing, or the files
    have no equal number of lines; says where."""
    if BETWEEN in location:
        one, other = (Path(part) for part in location.split(BETWEEN))
        return read_two_files(one, other)
    return read_table(Path(location))


def read_table(path: Path) -> PairCorpus:
    """Returns the pairs of a file with source, tab, target, and perhaps tab and the name of a document on each line.
    `NAME.en-zh.tsv` tells the languages."""
    pairs = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        columns = line.split("\t")
        if not 2 <= len(columns) <= 3:
            raise ValueError(
                f"{path}, line {number} has {len(columns)} columns, expected source, tab, target, and perhaps tab and "
                f"the name of their document."
            )
        source, target, *document = map(clean, columns)
        _check_sides(f"{path}, line {number}", source, target)
        pairs.append(Pair(source, target, *document))
    named = re.search(r"\.([a-z]{2,3})-([a-z]{2,3})\.tsv", path.name)
    return PairCorpus(pairs, (named[1], named[2]) if named else ("", ""))


def read_two_files(one: Path, other: Path) -> PairCorpus:
    """Returns the pairs of two files, line by line; where both have a blank line a document ends. `NAME.en` and
    `NAME.zh` tell the languages."""
    sources, targets = _lines(one), _lines(other)
    if len(sources) != len(targets):
        place = _first_difference(sources, targets)
        raise ValueError(
            f"{one} has {len(sources):,} lines and {other} has {len(targets):,}, expected a line of each for every "
            f"pair; {place}."
        )
    pairs, document = [], 0
    for number, (source, target) in enumerate(zip(map(clean, sources), map(clean, targets), strict=True), start=1):
        if not source and not target:
            document += 1
            continue
        _check_sides(f"line {number} of {one} and {other}", source, target)
        pairs.append(Pair(source, target, str(document)))
    if document == 0:
        pairs = [pair._replace(document="") for pair in pairs]
    languages = [path.suffix[1:] if LANGUAGE.fullmatch(path.suffix[1:]) else "" for path in (one, other)]
    return PairCorpus(pairs, (languages[0], languages[1]))


def _lines(path: Path) -> list[str]:
    return read_text(path).replace("\r\n", "\n").rstrip("\n").split("\n")


def _check_sides(where: str, source: str, target: str) -> None:
    for side, text in (("source", source), ("target", target)):
        if not text:
            raise ValueError(f"{where}: the {side} is empty, expected a text on both sides; leave the pair out.")


def _first_difference(sources: list[str], targets: list[str]) -> str:
    """Returns in words where two files of unequal length first show that they do not go together."""
    for number, (source, target) in enumerate(zip(sources, targets, strict=False), start=1):
        if bool(source.strip()) != bool(target.strip()):
            return f"line {number} is the first that is blank in one of them alone"
    return f"line {min(len(sources), len(targets)) + 1} is the first without a partner"
