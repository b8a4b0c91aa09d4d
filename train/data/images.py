"""The data of a run on labelled images: an image is a row with one target, its label.

n images, H rows, W columns, C channels.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.cache import cache_folder
from kleiber.train.data.corpora.catalogue import find_corpus, prepare_corpus, prepared_folder
from kleiber.train.data.corpora.images.arrays import verified_array
from kleiber.train.data.corpora.prepared import read_corpus_manifest
from kleiber.train.data.source import Source
from kleiber.train.data.windows import report_to_stderr


@dataclass(frozen=True, eq=False)
class ImageSource(Source):
    """A split of labelled images."""

    images: np.ndarray
    """uint8 [n, H, W, C]."""
    labels: np.ndarray
    """int32 [n]."""
    names: tuple[str, ...]
    """Of the labels."""
    digest: str
    """The fingerprint of all splits."""
    corpus: str
    split: str
    seq_len: int = 1

    @property
    def num_sequences(self) -> int:
        """Images."""
        return len(self.labels)

    @property
    def vocab_size(self) -> int:
        """Labels."""
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Equal only for equal images and labels of all splits; goes into the run record."""
        return self.digest

    def batch(self, config: TrainConfig, indices: np.ndarray, newlines: frozenset[int] = frozenset()) -> Batch:
        """Returns images [...] as a Batch: inputs uint8 [..., H, W, C], targets int32 [..., 1]."""
        return Batch(self.images[indices], self.labels[indices][..., None])

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]


def open_images(config: TrainConfig, split: str) -> ImageSource:
    """Returns a split of the corpus of a run, preparing it if that needs no download, and checked against the model.
    Raises ValueError: the user must prepare it first, it holds no images, or others than the model reads."""
    corpus = find_corpus(config.data.corpus)
    folder = prepared_folder(corpus)
    if folder is None and corpus.needs_download:
        raise ValueError(f"corpus {corpus.name} is not prepared yet; run: kleiber data prepare {corpus.name}")
    if corpus.kind != "tfds" and not corpus.has_images:
        raise ValueError(_no_images(corpus.name))
    source = source_of(folder or prepare_corpus(corpus.name, report_to_stderr), corpus.name, split)
    check_model(source, config.model)
    return source


def source_of(folder: Path, name: str, split: str) -> ImageSource:
    """Returns a split of a prepared corpus. Raises ValueError if it holds no images, or is damaged."""
    manifest = read_corpus_manifest(folder)
    if "images" not in manifest:
        raise ValueError(_no_images(name))
    images, labels = (verified_array(folder, split, part, manifest) for part in ("images", "labels"))
    return ImageSource(
        images, labels, tuple(manifest["images"]["labels"]), fingerprint(manifest), corpus=name, split=split
    )


def _no_images(name: str) -> str:
    return (
        f"corpus {name} holds text, and the model reads images; set data.corpus to digits, tfds:NAME of labelled "
        f"images, or a file of arrays (.npz), or choose another model.family"
    )


def fingerprint(manifest: dict[str, Any]) -> str:
    """Returns kind of corpus and a digest of the images and labels of all its splits."""
    parts = "".join(f"{split} {measured['sha256']}\n" for split, measured in sorted(manifest["splits"].items()))
    return f"{manifest['corpus'].partition(':')[0]}/images/{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def check_model(source: ImageSource, model: ModelConfig) -> None:
    """Checks that a model reads these images and tells these labels. Raises ValueError that says what to set."""
    image, (_, height, _, channels) = model.image, source.images.shape
    assert image is not None
    if (image.side, image.channels) != (height, channels):
        raise ValueError(
            f"corpus {source.corpus} has images of side {height} and {channels} channels, model.image says side "
            f"{image.side} and {image.channels}; set image=ImageConfig(side={height}, channels={channels})"
        )
    if model.vocab_size != source.vocab_size:
        raise ValueError(
            f"corpus {source.corpus} has {source.vocab_size} labels, model.vocab_size is {model.vocab_size}; "
            f"set vocab_size={source.vocab_size}"
        )


def find_images(wanted: str, name: str, split: str) -> ImageSource:
    """Returns a split of the prepared corpus with a fingerprint, wherever it was read. Raises ValueError if the cache
    holds none."""
    for path in (cache_folder() / "corpora").glob("*/*/images"):
        manifest = read_corpus_manifest(path.parent)
        if "images" in manifest and fingerprint(manifest) == wanted:
            return source_of(path.parent, name, split)
    raise ValueError(
        f"the images of this run are not prepared here ({wanted}, in {cache_folder()}): kleiber data prepare {name}"
    )
