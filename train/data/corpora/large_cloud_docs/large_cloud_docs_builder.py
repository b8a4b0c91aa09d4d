"""TFDS builder of `cloud-docs-large`: cloud-docs, and the descriptions of the APIs in google-api-python-client.

The same genre from two makers, both Apache-2.0, for runs that would repeat cloud-docs. Every version of an API belongs
to one group, `google/NAME`, and APIs are held out as the services of cloud-docs are: its `validation` services are held
out here too. The wheel is fetched by pip when the user prepares this corpus, and read as a zip file.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kleiber.collector import collector_paused
from kleiber.train.data.corpora.cloud_docs.cloud_docs_builder import (
    BOTOCORE,
    SMALLEST_DOCUMENT,
    botocore_models,
    clean,
    read_services,
    split_services,
)
from kleiber.train.data.corpora.documents import Group, record_features, records
from kleiber.train.data.corpora.sources import SOURCES
from kleiber.train.data.corpora.wheels import fetch_wheel

NAME = "cloud-docs-large"
FOLDER = "googleapiclient/discovery_cache/documents/"


class LargeCloudDocs(tfds.core.GeneratorBasedBuilder):
    """Documentation strings of cloud services and APIs of two makers, a group for each service."""

    code_path = None  # TFDS would look for checksums through the namespace package kleiber, and fail
    pkg_dir_path = Path(__file__).parent
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": f"google-api-python-client {SOURCES[NAME].package_version}, botocore {BOTOCORE}"}

    def __init__(self, *, downloads: Path | None = None, **options: Any) -> None:
        """Makes the builder; `downloads` is the folder of the wheel, needed to prepare but not to read."""
        self._downloads = downloads
        super().__init__(**options)

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=record_features(), license=SOURCES[NAME].licence
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        assert self._downloads is not None, "preparing needs the folder of downloads"
        models = botocore_models()
        services = read_services(models) | read_apis(fetch_wheel(NAME, self._downloads))
        return {name: self._generate_examples(groups) for name, groups in split_services(services).items()}

    def _generate_examples(self, groups: list[Group]) -> Iterator[tuple[str, dict[str, Any]]]:
        return records(groups)


def read_apis(wheel: Path) -> dict[str, tuple[str, ...]]:
    """Returns the distinct documents of each API of the wheel by `google/NAME`, its versions in the order of names."""
    apis: dict[str, dict[str, None]] = {}
    with zipfile.ZipFile(wheel) as archive, collector_paused():
        for file in sorted(name for name in archive.namelist() if name.startswith(FOLDER) and name.endswith(".json")):
            documents = apis.setdefault("google/" + file.removeprefix(FOLDER).partition(".")[0], {})
            for string in descriptions(json.loads(archive.read(file))):
                text = clean(string)
                if len(text) >= SMALLEST_DOCUMENT:
                    documents[text] = None
    return {name: tuple(documents) for name, documents in apis.items() if documents}


def descriptions(node: Any) -> Iterator[str]:
    """Yields every string under `description`, and those in lists under `enumDescriptions`, depth first."""
    if isinstance(node, list):
        for child in node:
            yield from descriptions(child)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key == "description" and isinstance(value, str):
            yield value
        elif key == "enumDescriptions" and isinstance(value, list):
            yield from (text for text in value if isinstance(text, str))
        else:
            yield from descriptions(value)
