"""Corpora: which there are, how one is prepared, and the manifest that says what text it holds.

A prepared corpus is a folder `<cache>/corpora/<name>/<version>` with `manifest.json`, the records that TFDS wrote
(ArrayRecord, no TensorFlow), and later `tokenizers/` and `tokens/`. Opening a prepared corpus loads no TFDS.
"""

import contextlib
import difflib
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from blake3 import blake3

from kleiber.train.data.cache import build_folder, cache_folder
from kleiber.train.data.corpora.sources import SOURCES

MANIFEST_FORMAT = 1
TEXT_FILE_VERSION = "1.0.0"  # raised when files are cut or split in another way
FILE_SUFFIXES = (".txt", ".text", ".md", ".rst", ".jsonl", ".tex", ".org")
Report = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """A corpus by its name, whether prepared or not."""

    name: str
    """As the user wrote it, such as cloud-docs, tfds:imdb_reviews or notes.txt."""
    kind: Literal["built-in", "tfds", "file"]
    slug: str
    """Name of its folder in the cache."""
    location: str = ""
    """Path of a file, or name within TFDS."""
    key: str | None = None
    """The feature (tfds) or JSON key (file) of the text, if the user named one after '#'."""

    @property
    def needs_download(self) -> bool:
        """Whether preparing may fetch something, which only `kleiber data prepare` does."""
        return self.kind == "tfds" or (self.kind == "built-in" and SOURCES[self.name].needs_download)


def find_corpus(name: str) -> Corpus:
    """Returns the corpus of a name: one of `kleiber data list`, `tfds:NAME[#KEY]`, or the path of a text file.

    Raises:
      ValueError: if no corpus has that name; says the nearest.
      FileNotFoundError: if it is a path without a file.
    """
    if name in SOURCES:
        return Corpus(name, "built-in", name)
    if name.startswith("tfds:"):
        dataset, _, feature = name.removeprefix("tfds:").partition("#")
        if not dataset:
            raise ValueError("tfds: needs the name of a dataset, such as tfds:wikipedia/20230601.simple.")
        return Corpus(name, "tfds", slug(name), dataset, feature or None)
    path = Path(name.removeprefix("file:")).expanduser()
    key: str | None = None
    if not path.exists() and "#" in path.name:
        whole, _, key = str(path).rpartition("#")
        path = Path(whole)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; a corpus is one text file. Join them, such as: cat {path}/*.txt > all.txt"
        )
    if path.is_file():
        path = path.resolve()
        digest = blake3(path.read_bytes()).update(f"#{key}{path.suffix}".encode()).hexdigest()[:16]
        return Corpus(name, "file", f"file-{slug(path.stem)}-{digest}", str(path), key)
    if name.startswith("file:") or path.suffix in FILE_SUFFIXES or len(path.parts) > 1:
        raise FileNotFoundError(
            f"no text file at {path.absolute()}; a corpus is a file's path or a name of {list(SOURCES)}."
        )
    near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ValueError(
        f"unknown corpus '{name}'; {hint}Known: {', '.join(SOURCES)}, tfds:NAME, or the path of a UTF-8 text file."
    )


def slug(name: str) -> str:
    """Returns a name fit for a folder, different for different names."""
    plain = "".join(character if character.isascii() and character.isalnum() else "-" for character in name)[:48]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def prepared_folder(corpus: Corpus) -> Path | None:
    """Returns the folder of a prepared corpus, the one prepared last of several versions; None if not prepared."""
    home = cache_folder() / "corpora" / corpus.slug
    if corpus.kind == "built-in":
        folder = home / SOURCES[corpus.name].version
        return folder if is_prepared(folder) else None
    found = [folder for folder in home.glob("[!.]*") if is_prepared(folder)]
    return max(found, key=lambda folder: (folder.stat().st_mtime_ns, folder.name), default=None)


def is_prepared(folder: Path) -> bool:
    """Returns whether a corpus folder is whole: its manifest is the last file written before it got its name."""
    return (folder / "manifest.json").is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a prepared corpus.

    Raises:
      ValueError: if it cannot be read, or was written by another format.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != MANIFEST_FORMAT:
            raise ValueError(f"format {manifest['format']}, expected {MANIFEST_FORMAT}")
    except (ValueError, KeyError, TypeError) as mistake:
        raise ValueError(f"{path} is damaged ({mistake}); delete {folder} and prepare the corpus again.") from None
    return manifest


def prepare_corpus(name: str, report: Report = print) -> Path:
    """Returns the folder of a corpus, preparing it if that has not been done.

    Args:
      name: as find_corpus takes it.
      report: called with a line about each stage.

    Raises:
      ValueError: for an unknown corpus, a wrong package version, or unfit text.
    """
    corpus = find_corpus(name)
    folder = prepared_folder(corpus)
    if folder is not None:
        return folder
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    home = cache_folder() / "corpora" / corpus.slug
    if corpus.kind == "tfds":
        from kleiber.train.data.corpora.tfds_text import describe_dataset

        report(f"{name}: preparing with TFDS (downloads if needed)")
        described = describe_dataset(corpus.location, corpus.key)
        folder, content = home / described["version"], described
    else:
        folder = home / (SOURCES[corpus.name].version if corpus.kind == "built-in" else TEXT_FILE_VERSION)
        content = {}
    build_folder(folder, is_prepared, lambda partial: write_corpus(corpus, content, partial, report))
    return folder


def write_corpus(corpus: Corpus, described: dict[str, Any], folder: Path, report: Report) -> None:
    """Writes the records of a corpus into a folder, measures them as read back, and writes the manifest last."""
    name = f"file:{Path(corpus.location).name}" if corpus.kind == "file" else corpus.name
    manifest: dict[str, Any] = {"format": MANIFEST_FORMAT, "corpus": name, "source": describe_source(corpus)}
    if corpus.kind == "tfds":
        manifest |= {"tfds": described, "source": manifest["source"] | {"licence": described["licence"]}}
        manifest |= {"splits": {split: {} for split in described["splits"]}}
    else:
        report(f"{corpus.name}: reading {manifest['source'].get('package', corpus.location)} and writing records")
        builder = make_builder(corpus, folder)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints to stdout, which belongs to --json
            builder.download_and_prepare()
        shutil.rmtree(folder / "records" / "downloads", ignore_errors=True)  # an empty folder that TFDS makes
        manifest["records"] = str(Path(builder.data_dir).relative_to(folder))
        manifest["splits"] = {split: {} for split in sorted(builder.info.splits)}
    report(f"{corpus.name}: counting, digesting, and measuring the overlap of the splits")
    manifest["splits"] = {split: measure_split(folder, manifest, split) for split in manifest["splits"]}
    manifest["overlap"] = measure_overlap(folder, manifest)
    if corpus.kind == "built-in" and manifest["splits"]["train"]["sha256"] != SOURCES[corpus.name].train_sha256:
        report(
            f"{corpus.name}: WARNING: this text is not the text of published results, so fitted constants may differ"
        )
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def describe_source(corpus: Corpus) -> dict[str, str]:
    """Returns where the text of a corpus comes from, and its licence."""
    if corpus.kind == "built-in":
        source = SOURCES[corpus.name]
        return {"package": source.package, "version": source.package_version, "licence": source.licence}
    if corpus.kind == "tfds":
        return {"package": "tensorflow-datasets", "dataset": corpus.location}
    return {"path": corpus.location, "licence": "the user's own"}


def make_builder(corpus: Corpus, folder: Path) -> Any:
    """Returns the TFDS builder of a built-in corpus or of a text file."""
    options = {"data_dir": folder / "records", "file_format": "array_record"}
    if corpus.kind == "file":
        from kleiber.train.data.corpora.text_file.text_file_builder import TextFile

        return TextFile(path=Path(corpus.location), key=corpus.key or "text", **options)
    if corpus.name == "wiki-passages":
        from kleiber.train.data.corpora.wiki_passages.wiki_passages_builder import WikiPassages

        return WikiPassages(downloads=cache_folder() / "downloads", **options)
    from kleiber.train.data.corpora.cloud_docs.cloud_docs_builder import CloudDocs

    return CloudDocs(**options)


def read_split(folder: Path, manifest: dict[str, Any], split: str) -> Iterator[tuple[str, list[bytes]]]:
    """Yields (group, UTF-8 documents) of a split in the stored order; an empty group name means each stands alone."""
    if "tfds" in manifest:
        from kleiber.train.data.corpora.tfds_text import read_documents

        return read_documents(manifest["tfds"], split)
    from kleiber.train.data.corpora.documents import read_records

    return read_records(folder / manifest["records"], split)


def measure_split(folder: Path, manifest: dict[str, Any], split: str) -> dict[str, Any]:
    """Returns counts, SHA-256 and unigram entropy of a split.

    The SHA-256 is that of all documents in the stored order, each followed by a newline.

    Raises:
      ValueError: if the split holds no text.
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
    """Checks the text of a record.

    Raises:
      ValueError: if it is not UTF-8.
    """
    try:
        text.decode()
    except UnicodeDecodeError as mistake:
        raise ValueError(
            f"split '{split}' of {corpus} holds invalid UTF-8 ({mistake.reason} at byte {mistake.start} after document "
            f"{num_documents})."
        ) from None


def measure_overlap(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns, for each held-out split, the fraction of its 64-byte windows that also stand in the training split."""
    from kleiber.train.data.corpora.overlap import WINDOW_BYTES, overlap_fractions

    def documents(split: str) -> Iterator[list[bytes]]:
        return (texts for _, texts in read_split(folder, manifest, split))

    held_out = {split: documents(split) for split in manifest["splits"] if split != "train"}
    fractions = overlap_fractions(documents("train"), held_out)
    return {
        "window_bytes": WINDOW_BYTES,
        "fraction_also_in_train": {split: round(fraction, 6) for split, fraction in fractions.items()},
    }
