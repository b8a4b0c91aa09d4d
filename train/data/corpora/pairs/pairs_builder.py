"""TFDS builder of pairs: a record holds some pairs of one document, each source before its target."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kleiber.train.data.corpora.documents import Group, record_features, records
from kleiber.train.data.corpora.pairs.aligned import PairCorpus, groups_of, split_pairs
from kleiber.train.data.corpora.sources import PAIRS_VERSION


class Pairs(tfds.core.GeneratorBasedBuilder):
    """Pairs of one corpus, split by document."""

    code_path = None  # TFDS would look for checksums through the namespace package kleiber, and fail
    pkg_dir_path = Path(__file__).parent
    VERSION = tfds.core.Version(PAIRS_VERSION)

    def __init__(self, *, read: Callable[[], PairCorpus], where: str, licence: str, **options: Any) -> None:
        found = read()
        self._splits, left_out = split_pairs(found, where)
        self._licence, source_target = licence, dict(zip(("source", "target"), found.languages, strict=True))
        self.described = {"pairs": {**source_target, "left_out": left_out}}
        super().__init__(**options)

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=record_features(), license=self._licence
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(groups_of(pairs)) for name, pairs in self._splits.items()}

    def _generate_examples(self, groups: list[Group]) -> Iterator[tuple[str, dict[str, Any]]]:
        return records(groups)
