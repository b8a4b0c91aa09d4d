"""Where labelled images come from: the digits that ship inside scikit-learn, a file of the user's own, TFDS."""

import gzip
import importlib.metadata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.train.data.corpora.images.labelled import LabelledImages
from kleiber.train.data.corpora.sources import SOURCES

IMAGE_SUFFIX = ".npz"
DIGITS_SIDE, DIGITS_BRIGHTEST = 8, 16


def read_digits() -> LabelledImages:
    """Returns the 1,797 handwritten digits of 8 x 8 pixels of the installed scikit-learn (Alpaydin and Kaynak 1998,
    doi:10.24432/C50P49). Raises ValueError if it is missing or another version."""
    source = SOURCES["digits"]
    remedy = f"install the pinned one: pip install scikit-learn=={source.package_version}   (or kleiber[images])"
    try:
        distribution = importlib.metadata.distribution("scikit-learn")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"corpus digits is read from scikit-learn, which is not installed; {remedy}") from None
    if distribution.version != source.package_version:
        raise ValueError(
            f"corpus digits is that of scikit-learn {source.package_version}, found {distribution.version}; {remedy}"
        )
    return digits_of(Path(str(distribution.locate_file("sklearn/datasets/data/digits.csv.gz"))))


def digits_of(path: Path) -> LabelledImages:
    """Returns the images of a packed table: 64 numbers from 0 to 16 and a digit on each line."""
    with gzip.open(path, "rt", encoding="ascii") as lines:
        rows = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    pixels = np.rint(rows[:, :-1] * (255 / DIGITS_BRIGHTEST)).astype(np.uint8)
    images = pixels.reshape(-1, DIGITS_SIDE, DIGITS_SIDE, 1)
    return LabelledImages(images, rows[:, -1].astype(np.int32), tuple(map(str, range(10))))


def read_image_file(path: Path) -> LabelledImages:
    """Returns the images of a file that numpy.savez wrote: `images`, uint8 [n, H, W] or [n, H, W, C]; `labels`, whole
    numbers from 0 [n]; and perhaps `names` of the labels. Raises ValueError: it is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("images", "labels", "names") if name in arrays}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as problem:
        raise ValueError(
            f"{path} is no file of arrays ({problem}); numpy.savez(path, images=, labels=) writes one."
        ) from None
    if lost := {"images", "labels"} - found.keys():
        raise ValueError(f"{path} holds no array '{min(lost)}'; write it by numpy.savez(path, images=, labels=).")
    images, labels = found["images"], found["labels"]
    images = images[..., None] if images.ndim == 3 else images
    if "names" in found:
        names = tuple(map(str, found["names"]))
    else:
        is_whole = labels.size and np.issubdtype(labels.dtype, np.integer)
        names = tuple(map(str, range(int(labels.max()) + 1 if is_whole else 0)))
    return LabelledImages(images, labels.astype(np.int32) if names else labels, names)


def image_features(info: Any) -> tuple[str, str] | None:
    """Returns the names of the image and of the label of a TFDS dataset, or None where it has not just one of each."""
    import tensorflow_datasets as tfds

    def names(kind: type) -> list[str]:
        return [name for name, each in (info.features or {}).items() if isinstance(each, kind)]

    images, labels = names(tfds.features.Image), names(tfds.features.ClassLabel)
    return (images[0], labels[0]) if len(images) == len(labels) == 1 else None


def read_tfds(described: dict[str, Any], split: str) -> LabelledImages:
    """Returns a split of a prepared TFDS dataset, as describe_dataset told of it. Raises ValueError: its images are of
    several sizes."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(described["name"], file_format="array_record")
    image_key, label_key = described["keys"]
    examples = list(builder.as_data_source(split=described["splits"][split]))
    images = [np.asarray(example[image_key]) for example in examples]
    if len(sizes := sorted({image.shape for image in images})) > 1:
        raise ValueError(
            f"tfds:{described['name']} holds images of {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}, "
            f"expected one; bring them to one size in an own file of arrays (.npz)."
        )
    labels = np.array([int(example[label_key]) for example in examples], np.int32)
    return LabelledImages(np.stack(images), labels, tuple(builder.info.features[label_key].names))
