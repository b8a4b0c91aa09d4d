"""Corpora: which there are, and how one is prepared.

A prepared corpus is a folder `<cache>/corpora/<name>/<version>` with `manifest.json`, the records that TFDS wrote
(ArrayRecord, no TensorFlow), and later `tokenizers/` and `tokens/`. Opening a prepared corpus loads no TFDS.
"""

import contextlib
import difflib
import hashlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from kleiber.files import write_json
from kleiber.train.data.cache import build_folder, cache_folder
from kleiber.train.data.corpora.pairs.aligned import PairCorpus
from kleiber.train.data.corpora.pairs.reading import BETWEEN, names_pairs, read_pairs
from kleiber.train.data.corpora.prepared import (
    MANIFEST_FORMAT,
    is_prepared,
    measure_overlap,
    measure_split,
    read_corpus_manifest,
)
from kleiber.train.data.corpora.sources import IMAGES_VERSION, PAIRS_VERSION, SOURCES, TEXT_FILE_VERSION

FILE_SUFFIXES = (
    ".npz",
    ".txt",
    ".text",
    ".md",
    ".rst",
    ".jsonl",
    ".json",
    ".ndjson",
    ".tex",
    ".org",
    ".tsv",
    ".gz",
    ".bz2",
    ".xz",
)
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
    """Path of a file, or of two of pairs with :: between them; or name within TFDS."""
    key: str | None = None
    """The feature (tfds) or JSON key (file) of the text, if the user named one after '#'."""
    keeps_copies: bool = False
    """Whether documents of a file that are exact copies of others stay: a path ending in #all."""

    @property
    def has_images(self) -> bool:
        """Whether it holds labelled images; a dataset of TFDS says so when it is prepared."""
        return SOURCES[self.name].has_images if self.kind == "built-in" else self.location.endswith(".npz")

    @property
    def has_pairs(self) -> bool:
        """Whether its texts are pairs of a source and a target."""
        return SOURCES[self.name].has_pairs if self.kind == "built-in" else names_pairs(self.location)

    @property
    def version(self) -> str:
        """Of how it is prepared; TFDS has its own."""
        if self.kind == "built-in":
            return SOURCES[self.name].version
        if self.has_pairs:
            return PAIRS_VERSION
        return IMAGES_VERSION if self.has_images else TEXT_FILE_VERSION

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
    if BETWEEN in name:
        return _two_files(name)
    path = Path(name.removeprefix("file:")).expanduser()
    key: str | None = None
    keeps_copies = path.name.endswith("#all") and not path.exists()
    if keeps_copies:
        path = path.with_name(path.name.removesuffix("#all"))
    if not path.exists() and "#" in path.name:
        whole, _, key = str(path).rpartition("#")
        path = Path(whole)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; a corpus is one text file. Join them, such as: cat {path}/*.txt > all.txt"
        )
    if path.is_file():
        path = path.resolve()
        told = f"#{key}{path.suffix}{'#all' if keeps_copies else ''}"
        digest = blake3(path.read_bytes()).update(told.encode()).hexdigest()[:16]
        return Corpus(name, "file", f"file-{slug(path.stem)}-{digest}", str(path), key, keeps_copies)
    if name.startswith("file:") or path.suffix in FILE_SUFFIXES or len(path.parts) > 1:
        raise FileNotFoundError(
            f"no text file at {path.absolute()}; a corpus is a file's path or a name of {list(SOURCES)}."
        )
    near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ValueError(
        f"unknown corpus '{name}'; {hint}Known: {', '.join(SOURCES)}, tfds:NAME, or the path of a UTF-8 text file."
    )


def _two_files(name: str) -> Corpus:
    """Returns the corpus of two files whose lines are pairs. Raises ValueError or FileNotFoundError if one lacks."""
    paths = [Path(part).expanduser() for part in name.removeprefix("file:").split(BETWEEN)]
    if len(paths) != 2:
        raise ValueError(f"corpus '{name}' names {len(paths)} files, expected two, such as news.en::news.de.")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no text file at {path.absolute()}; pairs are PATH::PATH, or one PATH.tsv.")
    digest = blake3(b"".join(blake3(path.read_bytes()).digest() for path in paths))
    digest.update(BETWEEN.join(path.suffix for path in paths).encode())
    location = BETWEEN.join(str(path.resolve()) for path in paths)
    return Corpus(name, "file", f"file-{slug(paths[0].stem)}-{digest.hexdigest()[:16]}", location)


def slug(name: str) -> str:
    """Returns a name fit for a folder, different for different names."""
    plain = "".join(character if character.isascii() and character.isalnum() else "-" for character in name)[:48]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def prepared_folder(corpus: Corpus) -> Path | None:
    """Returns the folder of a prepared corpus, the one prepared last of several versions; None if not prepared."""
    home = cache_folder() / "corpora" / corpus.slug
    if corpus.kind != "tfds":
        return home / corpus.version if is_prepared(home / corpus.version) else None
    found = [folder for folder in home.glob("[!.]*") if is_prepared(folder)]
    return max(found, key=lambda folder: (folder.stat().st_mtime_ns, folder.name), default=None)


def prepare_corpus(name: str, report: Report = print) -> Path:
    """Returns the folder of a corpus, preparing it if that has not been done, with a line of report about each stage.
    Raises ValueError for an unknown corpus, a wrong package version, or unfit text."""
    corpus = find_corpus(name)
    folder = prepared_folder(corpus)
    if folder is not None:
        if dropped := read_corpus_manifest(folder)["source"].get("dropped"):
            report(f"{corpus.name}: {dropped}; {corpus.name}#all keeps them")
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
        folder, content = home / corpus.version, {}
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
        if dropped := getattr(builder, "dropped", ""):
            report(f"{corpus.name}: {dropped}; {corpus.name}#all keeps them")
            manifest["source"] = {**manifest["source"], "dropped": dropped}
        shutil.rmtree(folder / "records" / "downloads", ignore_errors=True)  # an empty folder that TFDS makes
        manifest |= getattr(builder, "described", {})
        manifest["records"] = str(Path(builder.data_dir).relative_to(folder))
        manifest["splits"] = {split: {} for split in sorted(builder.info.splits)}
    report(f"{corpus.name}: counting, digesting, and measuring the overlap of the splits")
    if corpus.has_images or "keys" in described:
        from kleiber.train.data.corpora.images.arrays import write_arrays

        manifest |= write_arrays(folder, manifest)
    else:
        manifest["splits"] = {split: measure_split(folder, manifest, split) for split in manifest["splits"]}
        manifest["overlap"] = measure_overlap(folder, manifest)
        if "pairs" in manifest:
            for measured in manifest["splits"].values():
                measured["num_pairs"] = measured["num_documents"] // 2
                measured["num_groups"] = min(measured["num_groups"], measured["num_pairs"])
    if left_out := manifest.get("pairs", {}).get("left_out"):
        report(
            f"{corpus.name}: left out {left_out['copies']:,} copies, and {left_out['leaks']:,} pairs that would leak"
        )
    if corpus.kind == "built-in" and manifest["splits"]["train"]["sha256"] != SOURCES[corpus.name].train_sha256:
        what = "these images are not those" if corpus.has_images else "this text is not the text"
        report(f"{corpus.name}: WARNING: {what} of published results, so fitted constants may differ")
    write_json(folder / "manifest.json", manifest)


def describe_source(corpus: Corpus) -> dict[str, str]:
    """Returns where the text of a corpus comes from, and its licence."""
    if corpus.kind == "built-in":
        source = SOURCES[corpus.name]
        return {"package": source.package, "version": source.package_version, "licence": source.licence}
    if corpus.kind == "tfds":
        return {"package": "tensorflow-datasets", "dataset": corpus.location}
    return {"path": corpus.location, "licence": "the user's own"}


def make_builder(corpus: Corpus, folder: Path) -> Any:
    """Returns the TFDS builder of a built-in corpus, or of a file of text or images."""
    options: dict[str, Any] = {"data_dir": folder / "records", "file_format": "array_record"}
    if corpus.has_images:
        from kleiber.train.data.corpora.images.images_builder import Images
        from kleiber.train.data.corpora.images.reading import read_digits, read_image_file

        read = read_digits if corpus.kind == "built-in" else partial(read_image_file, Path(corpus.location))
        where = corpus.location or corpus.name
        return Images(read=read, where=where, licence=describe_source(corpus)["licence"], **options)
    if corpus.has_pairs:
        from kleiber.train.data.corpora.pairs.pairs_builder import Pairs

        where, licence = corpus.location or corpus.name, describe_source(corpus)["licence"]
        return Pairs(read=partial(read_corpus_of_pairs, corpus), where=where, licence=licence, **options)
    if corpus.kind == "file":
        from kleiber.train.data.corpora.text_file.text_file_builder import TextFile

        options |= {"key": corpus.key or "text", "keeps_copies": corpus.keeps_copies}
        return TextFile(path=Path(corpus.location), **options)
    if corpus.name == "wiki-passages":
        from kleiber.train.data.corpora.wiki_passages.wiki_passages_builder import WikiPassages

        return WikiPassages(downloads=cache_folder() / "downloads", **options)
    if corpus.name == "cloud-docs-large":
        from kleiber.train.data.corpora.large_cloud_docs.large_cloud_docs_builder import LargeCloudDocs

        return LargeCloudDocs(downloads=cache_folder() / "downloads", **options)
    from kleiber.train.data.corpora.cloud_docs.cloud_docs_builder import CloudDocs

    return CloudDocs(**options)


def read_corpus_of_pairs(corpus: Corpus) -> PairCorpus:
    """Returns the pairs of a corpus, fetching what they are read from. Raises ValueError if that cannot be done, or a
    pair lacks a side."""
    if corpus.kind == "file":
        return read_pairs(corpus.location)
    source, downloads = SOURCES[corpus.name], cache_folder() / "downloads"
    if source.debian_packages:
        from kleiber.train.data.corpora.packages import fetch_packages
        from kleiber.train.data.corpora.pairs.office_help import read_office_help

        return read_office_help(fetch_packages(corpus.name, source.debian_packages, downloads))
    from kleiber.train.data.corpora.pairs.ua_gec import read_ua_gec
    from kleiber.train.data.corpora.wheels import fetch_wheel

    return read_ua_gec(fetch_wheel(corpus.name, downloads))
