"""TFDS builder of `cloud-docs`: every documentation string of botocore's service models, split by service.

Technical reference prose in English, Apache-2.0. A string of 80 characters or more is a document; copies are dropped.
About 8 % of the services are held out, because strings of one service resemble each other: the same model scores 2 %
better on unseen strings of services that it trained on (the split `validation_documents`).
"""

import gzip
import html
import importlib.metadata
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kleiber.collector import collector_paused
from kleiber.train.data.corpora.documents import Group, record_features, records
from kleiber.train.data.corpora.sources import SOURCES
from kleiber.train.data.corpora.splits import hash_percentile

BOTOCORE = SOURCES["cloud-docs"].package_version
SMALLEST_DOCUMENT = 80  # characters; shorter strings are mostly labels such as "The name of the cluster."
VALIDATION_PERCENT = 8  # of the services
HELD_OUT_PERCENT = 6  # of the documents of training services
TAG = re.compile(r"<[^>]+>")


class CloudDocs(tfds.core.GeneratorBasedBuilder):
    """Documentation strings of cloud services, a group for each service."""

    code_path = None  # TFDS would look for checksums through the namespace package kleiber, and fail
    pkg_dir_path = Path(__file__).parent
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": f"botocore {BOTOCORE}"}

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=record_features(), license=SOURCES["cloud-docs"].licence
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        splits = split_services(read_services(botocore_models()))
        return {name: self._generate_examples(groups) for name, groups in splits.items()}

    def _generate_examples(self, groups: list[Group]) -> Iterator[tuple[str, dict[str, Any]]]:
        return records(groups)


def botocore_models() -> Path:
    """Returns the folder of service models of the installed botocore. Raises ValueError if botocore is missing, or is
    another version: its text changes with each release."""
    remedy = f"install the pinned one: pip install botocore=={BOTOCORE}   (or kleiber[data])"
    try:
        distribution = importlib.metadata.distribution("botocore")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"corpus cloud-docs is read from botocore, which is not installed; {remedy}") from None
    if distribution.version != BOTOCORE:
        raise ValueError(
            f"corpus cloud-docs is the text of botocore {BOTOCORE}, found {distribution.version}, whose text "
            f"differs; {remedy}"
        )
    return Path(str(distribution.locate_file("botocore/data")))


def read_services(models: Path) -> dict[str, tuple[str, ...]]:
    """Returns the distinct documents of each service, in the order of its model file `<service>/<api
    version>/service-2.json.gz`."""
    services: dict[str, dict[str, None]] = {}
    cleaned: dict[str, str] = {}  # a third of the strings are copies
    with collector_paused():  # millions of small short-lived objects
        for file in sorted(models.glob("*/*/service-2.json.gz")):
            documents = services.setdefault(file.parent.parent.name, {})
            for string in documentation_strings(json.loads(gzip.decompress(file.read_bytes()))):
                text = cleaned.get(string)
                if text is None:
                    text = cleaned[string] = clean(string)
                if len(text) >= SMALLEST_DOCUMENT:
                    documents[text] = None
    return {name: tuple(documents) for name, documents in services.items() if documents}


def documentation_strings(node: Any) -> Iterator[str]:
    """Yields every string under a key `documentation` of a service model, depth first."""
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            documentation = value.get("documentation")
            if isinstance(documentation, str):
                yield documentation
            children = list(value.values())
        else:
            children = value
        stack.extend(child for child in reversed(children) if isinstance(child, dict | list))


def clean(string: str) -> str:
    """Returns a documentation string as plain text: no tags, no entities, single spaces."""
    text = TAG.sub(" ", string) if "<" in string else string
    return " ".join((html.unescape(text) if "&" in text else text).split())


def split_services(services: dict[str, tuple[str, ...]]) -> dict[str, list[Group]]:
    """Returns the groups of each split; no document stands in two of them, and none twice in one.

    `train` and `validation` share no service. `validation_documents` are held-out documents of training services. A
    document that several services share belongs to the first of them by name, training services first."""
    splits: dict[str, list[Group]] = {"train": [], "validation": [], "validation_documents": []}
    is_held_out = {name: hash_percentile(name) < VALIDATION_PERCENT for name in services}
    seen: set[str] = set()
    for name in sorted(services, key=lambda service: (is_held_out[service], service)):
        fresh = [text for text in services[name] if text not in seen]
        seen.update(fresh)
        if is_held_out[name]:
            splits["validation"].append(Group(name, tuple(fresh)))
            continue
        held_out = {text for text in fresh if hash_percentile(text) < HELD_OUT_PERCENT}
        splits["train"].append(Group(name, tuple(text for text in fresh if text not in held_out)))
        splits["validation_documents"].append(Group(name, tuple(text for text in fresh if text in held_out)))
    return {name: [group for group in groups if group.documents] for name, groups in splits.items()}
