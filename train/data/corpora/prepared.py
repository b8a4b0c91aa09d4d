"""A prepared corpus: its manifest, its documents split by split, and what is measured of them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.files import read_json
from kleiber.train.data.corpora.overlap import WINDOW_BYTES, overlap_fractions

MANIFEST_FORMAT = 1


def is_prepared(folder: Path) -> bool:
    """Returns whether a corpus folder is whole: its manifest is the last file written before it got its name."""
    return (folder / "manifest.json").is_file()


def read_corpus_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a prepared corpus. Raises ValueError if it cannot be read, or was written by another
    format."""
    path = folder / "manifest.json"
    try:
        manifest = read_json(path, "format", "corpus", "splits")
        if manifest["format"] != MANIFEST_FORMAT:
            raise ValueError(f"format {manifest['format']}, expected {MANIFEST_FORMAT}")
    except (OSError, ValueError) as mistake:
        raise ValueError(f"{path} is damaged ({mistake}); delete {folder} and prepare the corpus again.") from None
    return manifest


def read_split(folder: Path, manifest: dict[str, Any], split: str) -> Iterator[tuple[str, list[bytes]]]:
    """Yields (group, UTF-8 documents) of a split in the stored order; an empty group name means each stands alone."""
    if "tfds" in manifest:
        from kleiber.train.data.corpora.tfds_text import read_documents

        return read_documents(manifest["tfds"], split)
    from kleiber.train.data.corpora.documents import read_groups

    return read_groups(folder / manifest["records"], split)


def measure_split(folder: Path, manifest: dict[str, Any], split: str) -> dict[str, Any]:
    """Returns counts, SHA-256 and unigram entropy of a split. Raises ValueError if the split holds no text.

    The SHA-256 is that of all documents in the stored order, each followed by a newline.
    """
    digest = hashlib.sha256()
    counts = np.zeros(256, np.int64)
    num_documents = num_bytes = 0
    groups: set[str] = set()
    for group, documents in read_split(folder, manifest, split):
        text = b"\n".join(documents) + b"\n"
        check_utf8(text, manifest["corpus"], split, num_documents)
        digest.update(text)
        counts += np.bincount(np.frombuffer(text, np.uint8), minlength=256)
        num_documents += len(documents)
        num_bytes += len(text) - len(documents)
        groups.add(group)
    if not num_documents:
        raise ValueError(f"split '{split}' of {manifest['corpus']} holds no text; the corpus is too small to split.")
    frequencies = counts[counts > 0] / counts.sum()
    return {
        "num_documents": num_documents,
        "num_bytes": num_bytes,
        "num_groups": num_documents if groups == {""} else len(groups),
        "sha256": digest.hexdigest(),
        "unigram_entropy_nats_per_byte": round(float(-(frequencies * np.log(frequencies)).sum()), 6),
    }


def check_utf8(text: bytes, corpus: str, split: str, num_documents: int) -> None:
    """Checks the text of a record. Raises ValueError if it is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as mistake:
        raise ValueError(
            f"split '{split}' of {corpus} holds invalid UTF-8 ({mistake.reason} at byte {mistake.start} after document "
            f"{num_documents})."
        ) from None


def measure_overlap(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns, for each held-out split, the fraction of its 64-byte windows that also stand in the training split."""

    def documents(split: str) -> Iterator[list[bytes]]:
        return (texts for _, texts in read_split(folder, manifest, split))

    held_out = {split: documents(split) for split in manifest["splits"] if split != "train"}
    fractions = overlap_fractions(documents("train"), held_out)
    return {
        "window_bytes": WINDOW_BYTES,
        "fraction_also_in_train": {split: round(fraction, 6) for split, fraction in fractions.items()},
    }
