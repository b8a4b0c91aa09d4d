"""TFDS builder of labelled images that are read from a package or a file: a record holds one image and its label."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kleiber.train.data.corpora.images.labelled import LabelledImages, check_images, check_split, split_by_hash
from kleiber.train.data.corpora.sources import IMAGES_VERSION


class Images(tfds.core.GeneratorBasedBuilder):
    """Images of one corpus, a fifth of them held out by a hash of their pixels."""

    code_path = None  # TFDS would look for checksums through the namespace package kleiber, and fail
    pkg_dir_path = Path(__file__).parent
    VERSION = tfds.core.Version(IMAGES_VERSION)

    def __init__(self, *, read: Callable[[], LabelledImages], where: str, licence: str, **options: Any) -> None:
        self._found, self._licence = read(), licence
        check_images(self._found, where)
        self._splits = split_by_hash(self._found)
        check_split(self._splits["train"], self._splits["validation"], where)
        super().__init__(**options)

    def _info(self) -> Any:
        image = tfds.features.Tensor(shape=self._found.images.shape[1:], dtype=np.uint8)
        label = tfds.features.ClassLabel(names=list(self._found.names))
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=features, license=self._licence)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(found) for name, found in self._splits.items()}

    def _generate_examples(self, found: LabelledImages) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, (image, label) in enumerate(zip(found.images, found.labels, strict=True)):
            yield f"{number:08d}", {"image": image, "label": int(label)}


def read_records(folder: Path, split: str) -> LabelledImages:
    """Returns the images of a split of a prepared TFDS folder, in the stored order. Raises ValueError if the files are
    damaged."""
    try:
        builder = tfds.builder_from_directory(folder)
        source = builder.as_data_source(split=split)
        examples = source.__getitems__(range(len(source)))
        images = np.stack([example["image"] for example in examples])
        labels = np.array([example["label"] for example in examples], np.int32)
        return LabelledImages(images, labels, tuple(builder.info.features["label"].names))
    except (RuntimeError, FileNotFoundError, ValueError, TypeError, IndexError) as mistake:
        raise ValueError(
            f"the records of split '{split}' in {folder} are damaged ({mistake}); delete that corpus and prepare again."
        ) from None
