"""TFDS builder of a text file of the user's own.

reading.py tells how documents are found in it. Exact copies are dropped and counted, unless the corpus is named
PATH#all. Documents of smallest hash, together 6 % of the bytes, are the validation split.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kleiber.train.data.corpora.documents import DOCUMENTS_PER_RECORD, Group, record_features, records
from kleiber.train.data.corpora.sources import TEXT_FILE_VERSION
from kleiber.train.data.corpora.splits import smallest_hashes
from kleiber.train.data.corpora.text_file.reading import read_documents

VALIDATION_FRACTION = 0.06


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
