"""Labelled images as arrays: checked, split, described.

n images, H rows, W columns, C channels.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from kleiber.train.data.corpora.splits import hash_percentile

FEWEST_IMAGES = 20
VALIDATION_PERCENT = 20
"""Of the images, where nothing else says which are held out: few images need a larger part to be measured on."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images of one size and what they are."""

    images: np.ndarray
    """uint8 [n, H, W, C]."""
    labels: np.ndarray
    """int32 [n], from 0."""
    names: tuple[str, ...]
    """Of the labels."""

    def __getitem__(self, chosen: np.ndarray) -> "LabelledImages":
        return LabelledImages(self.images[chosen], self.labels[chosen], self.names)


def check_images(found: LabelledImages, where: str) -> None:
    """Checks images as they were read. Raises ValueError saying what is wrong and which image it is.

    Args:
      found: of any types and shapes.
      where: file or dataset, for messages.
    """
    images, labels, count = found.images, found.labels, len(found.names)
    if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
        raise ValueError(
            f"{where} holds images of shape {images.shape} and type {images.dtype}, expected uint8 [n, H, W, C] (or "
            f"[n, H, W] for grey ones), from 0 to 255."
        )
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"{where} holds images of {images.shape[1]} x {images.shape[2]} pixels, expected squares.")
    if len(labels) != len(images) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{where} holds {len(images)} images and {len(labels)} labels of type {labels.dtype}, expected one whole "
            f"number an image."
        )
    if len(images) < FEWEST_IMAGES:
        raise ValueError(f"{where} holds {len(images)} images, expected at least {FEWEST_IMAGES}.")
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        raise ValueError(
            f"{where}: image {wrong[0]} has the label {labels[wrong[0]]}, expected 0 to {count - 1}; {len(wrong)} of "
            f"{len(labels)} are outside."
        )
    if len(np.unique(labels)) < 2:
        raise ValueError(f"{where} holds images of one label, '{found.names[labels[0]]}', expected two or more.")


def check_split(train: LabelledImages, validation: LabelledImages, where: str) -> None:
    """Checks that every label to be told was seen. Raises ValueError naming one that is not, or an empty split."""
    if not len(train.labels) or not len(validation.labels):
        raise ValueError(f"{where}: {len(train.labels)} images to train on and {len(validation.labels)} to measure on.")
    lost = np.setdiff1d(np.arange(len(train.names)), train.labels)
    if len(lost):
        names = ", ".join(f"'{train.names[label]}'" for label in lost[:5])
        raise ValueError(
            f"{where}: no image to train on has the label {names}; a model cannot learn it. Give more images of it, or "
            f"number the labels without gaps."
        )


def split_by_hash(found: LabelledImages) -> dict[str, LabelledImages]:
    """Returns the splits `train` and `validation` by a hash of the pixels: copies of an image fall on one side."""
    percentile = np.array([hash_percentile(image.tobytes().hex()) for image in found.images])
    is_held_out = percentile < VALIDATION_PERCENT
    return {"train": found[~is_held_out], "validation": found[is_held_out]}


def measure(found: LabelledImages) -> dict[str, Any]:
    """Returns counts and SHA-256 of a split, its images and labels as bytes, one after another."""
    digest = hashlib.sha256(np.ascontiguousarray(found.images).tobytes())
    digest.update(found.labels.astype("<i4").tobytes())
    counts = np.bincount(found.labels, minlength=len(found.names))
    return {"num_images": len(found.labels), "num_of_label": counts.tolist(), "sha256": digest.hexdigest()}


def share_also_in_train(train: LabelledImages, validation: LabelledImages) -> float:
    """Returns the part of the validation images whose pixels also stand in training, whatever their label."""
    seen = {image.tobytes() for image in train.images}
    return sum(image.tobytes() in seen for image in validation.images) / len(validation.images)
