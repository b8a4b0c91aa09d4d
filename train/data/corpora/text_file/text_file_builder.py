"""TFDS builder of a text file of the user's own.

A .jsonl file holds one JSON object a line, its text under a key. Any other file is text whose documents are split at
blank lines; if that gives too few to hold some out, at lines, and at last into pieces of 1,000 characters. Exact
copies are dropped and counted, unless the corpus is named PATH#all. Documents of smallest hash, together 6 % of the
bytes, are the validation split.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kleiber.train.data.corpora.documents import DOCUMENTS_PER_RECORD, Group, record_features, records
from kleiber.train.data.corpora.sources import TEXT_FILE_VERSION
from kleiber.train.data.corpora.splits import smallest_hashes

VALIDATION_FRACTION = 0.06
FEWEST_DOCUMENTS = 20
SMALLEST_BYTES = 4_096
PIECE_CHARACTERS = 1_000


class TextFile(tfds.core.GeneratorBasedBuilder):
    """Documents of one file; every document is a group of its own."""

    code_path = None  # TFDS would look for checksums through the namespace package kleiber, and fail
    pkg_dir_path = Path(__file__).parent
    VERSION = tfds.core.Version(TEXT_FILE_VERSION)

    def __init__(self, *, path: Path, key: str = "text", keeps_copies: bool = False, **options: Any) -> None:
        self._path, self._key, self._keeps_copies, self.dropped = path, key, keeps_copies, ""
        super().__init__(**options)

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=record_features())

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        documents = read_documents(self._path, self._key)
        if not self._keeps_copies:
            distinct = list(dict.fromkeys(documents))
            if copies := len(documents) - len(distinct):
                share = 1 - sum(map(len, distinct)) / sum(map(len, documents))
                self.dropped = (
                    f"{copies:,} of {len(documents):,} documents, {share:.0%} of the text, are exact copies of others "
                    f"and left out"
                )
            documents = distinct
        splits = split_documents(documents)
        return {name: self._generate_examples(groups) for name, groups in splits.items()}

    def _generate_examples(self, groups: list[Group]) -> Iterator[tuple[str, dict[str, Any]]]:
        return records(groups)


def read_documents(path: Path, key: str = "text") -> list[str]:
    """Returns the documents of a text file or JSONL file, in order, copies included. Raises ValueError if the file is
    empty, too small, not UTF-8 text, or a JSONL line has no such text.

    Args:
      path: the file.
      key: of the text in each line of a .jsonl file.
    """
    content = path.read_bytes()
    if not content.strip():
        raise ValueError(f"{path} is empty; a corpus needs at least {SMALLEST_BYTES} bytes of text.")
    try:
        text = content.decode("utf-8-sig")  # a byte order mark is no text
    except UnicodeDecodeError as mistake:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[mistake.start]:02x} at offset {mistake.start} "
            f"({mistake.reason}); convert it first, such as: iconv -f latin1 -t utf-8 {path.name} > utf8.txt"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path} holds a NUL byte at offset {content.index(0)}: that is a binary file, not text.")
    documents = read_json_lines(path, text, key) if path.suffix == ".jsonl" else cut_text(text)
    distinct = set(documents)
    num_bytes = sum(len(document.encode()) for document in distinct)
    if num_bytes < SMALLEST_BYTES or len(distinct) < 2:
        raise ValueError(
            f"{path} is too small: {len(distinct)} distinct documents of {num_bytes} bytes in all, expected at least "
            f"2 documents and {SMALLEST_BYTES} bytes (and far more for a scaling law: some tokens a parameter)."
        )
    return documents


def cut_text(text: str) -> list[str]:
    """Returns the documents of plain text: paragraphs, or lines, or pieces, whichever are first enough to split."""
    text = text.replace("\r\n", "\n")
    for boundary in (r"\n[ \t]*\n", r"\n"):
        documents = [part.strip("\n") for part in re.split(boundary, text)]
        documents = [document for document in documents if document.strip()]
        if len(documents) >= FEWEST_DOCUMENTS:
            return documents
    return [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]


def read_json_lines(path: Path, text: str, key: str) -> list[str]:
    """Returns the text under `key` of every non-empty line, each a JSON object."""
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as mistake:
            raise ValueError(f"{path}, line {number} is not JSON: {mistake}") from None
        if not isinstance(record, dict) or not isinstance(record.get(key), str):
            keys = sorted(record) if isinstance(record, dict) else type(record).__name__
            raise ValueError(
                f"{path}, line {number} has no text under the key '{key}', found {keys}; name another key as "
                f"{path.name}#KEY."
            )
        if any("\ud800" <= character <= "\udfff" for character in record[key]):
            raise ValueError(
                f"{path}, line {number} has half a character (an unpaired surrogate), which no UTF-8 holds."
            )
        if record[key].strip():
            documents.append(record[key])
    return documents


def split_documents(documents: list[str]) -> dict[str, list[Group]]:
    """Returns the splits `train` and `validation`, as unnamed groups of a record's size; copies fall on one side."""
    held_out = smallest_hashes(documents, VALIDATION_FRACTION)
    splits = {
        "train": [document for document in documents if document not in held_out],
        "validation": [document for document in documents if document in held_out],
    }
    return {
        name: [
            Group("", tuple(chosen[start : start + DOCUMENTS_PER_RECORD]))
            for start in range(0, len(chosen), DOCUMENTS_PER_RECORD)
        ]
        for name, chosen in splits.items()
    }
