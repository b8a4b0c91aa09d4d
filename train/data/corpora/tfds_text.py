"""Any dataset of TFDS as a corpus: which of its features are the text, or image and label, and what is held out."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from kleiber.train.data.corpora.documents import RECORDS_PER_READ
from kleiber.train.data.corpora.images.reading import image_features
from kleiber.train.data.corpora.splits import hash_percentile

RETRIES = 5
"""Of a download, over six seconds: the ten of TFDS keep a machine without network waiting for minutes."""
VALIDATION_PERCENT = 6  # of the documents, where the dataset brings no split to validate on


def describe_dataset(name: str, key: str | None) -> dict[str, Any]:
    """Prepares a TFDS dataset as ArrayRecord, downloading it if needed, and says how to read it. Raises ValueError if
    there is no such dataset or feature.

    Args:
      name: as TFDS spells it, such as "wikipedia/20230601.simple".
      key: the feature that holds the text; None takes "text", or the only text feature, or where there is none the
        image and its label.

    Returns:
      {"name", "version", "key" of the text or "keys" of image and label, "splits": {our split: their split},
      "is_split_by_hash", "licence", "description"}.
    """
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text  # registers wikipedia, c4, wiki40b and others
    from requests.exceptions import RequestException
    from tensorflow_datasets.core.download import downloader

    downloader.MAX_RETRIES = RETRIES
    unreached = f"tfds:{name} cannot be fetched: this machine does not reach the network, or the host is down"
    try:
        builder = tfds.builder(name, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as mistake:
        first_line = str(mistake).strip().splitlines()[0]
        raise ValueError(f"tfds:{name} cannot be opened: {first_line}") from None
    except (RequestException, ConnectionError) as problem:
        raise ValueError(f"{unreached} ({type(problem).__name__}).") from None
    texts = sorted(name for name, kind in builder.info.features.items() if isinstance(kind, tfds.features.Text))
    chosen = key or ("text" if "text" in texts else texts[0] if len(texts) == 1 else None)
    images = None if texts or key else image_features(builder.info)
    if chosen not in texts and images is None:
        raise ValueError(
            f"tfds:{name} has no text feature '{key or 'text'}', found {texts or 'none at all'}; choose one as "
            f"tfds:{name}#KEY. Nor has it just one image with one label."
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to --json
            builder.download_and_prepare(file_format="array_record")
    except (RequestException, ConnectionError) as problem:
        raise ValueError(f"{unreached} ({type(problem).__name__}).") from None
    held_out = next((split for split in ("validation", "test") if split in builder.info.splits), None)
    return {
        "name": f"{builder.info.full_name.removesuffix('/' + str(builder.version))}:{builder.version}",
        "version": str(builder.version),
        **({"keys": list(images)} if images else {"key": chosen}),
        "splits": {"train": "train", "validation": held_out or "train"},
        "is_split_by_hash": held_out is None,
        "licence": (builder.info.redistribution_info.license or "see the TFDS catalogue").strip(),
        "description": (builder.info.description or "").strip(),
    }


def read_documents(described: dict[str, Any], split: str) -> Iterator[tuple[str, list[bytes]]]:
    """Yields ("", UTF-8 documents) of a split of what describe_dataset returned, in the stored order, which TFDS makes
    by a hash; empty documents are left out."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(described["name"], file_format="array_record")
    source = builder.as_data_source(split=described["splits"][split])
    for start in range(0, len(source), RECORDS_PER_READ):
        examples = source.__getitems__(range(start, min(start + RECORDS_PER_READ, len(source))))
        documents = [as_bytes(example[described["key"]]) for example in examples]
        if described["is_split_by_hash"]:
            wants_held_out = split == "validation"
            documents = [text for text in documents if is_held_out(text) == wants_held_out]
        documents = [text for text in documents if text.strip()]
        if documents:
            yield "", documents


def as_bytes(text: str | bytes) -> bytes:
    """Returns the UTF-8 of a text, which TFDS gives as bytes and its mock data as str."""
    return text.encode() if isinstance(text, str) else bytes(text)


def is_held_out(document: bytes) -> bool:
    """Returns whether a document belongs to the validation split, by its hash."""
    return hash_percentile(document.decode("utf-8", "replace")) < VALIDATION_PERCENT
