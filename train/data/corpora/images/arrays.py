"""The arrays of a prepared corpus of images: written with it, checked whenever they are opened.

`<corpus folder>/images/` holds `<split>.images.npy` (uint8 [n, H, W, C]) and `<split>.labels.npy` (int32 [n]); the
manifest of the corpus has their digests.
"""

from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from kleiber.train.data.corpora.images.labelled import (
    LabelledImages,
    check_images,
    check_split,
    measure,
    share_also_in_train,
    split_by_hash,
)

PARTS = ("images", "labels")


def write_arrays(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes the arrays of a corpus whose records are there, and returns what its manifest says of them: `splits`,
    `images` and `overlap`."""
    found = _read_splits(folder, manifest)
    train, validation = found["train"], found["validation"]
    (folder / "images").mkdir()
    splits = {}
    for name, split in found.items():
        paths = [folder / "images" / f"{name}.{part}.npy" for part in PARTS]
        for path, array in zip(paths, (split.images, split.labels), strict=True):
            np.save(path, array)
        splits[name] = measure(split) | {"blake3": {p.name: blake3(p.read_bytes()).hexdigest() for p in paths}}
    described = {"side": train.images.shape[1], "channels": train.images.shape[3], "labels": list(train.names)}
    shared = {"validation": round(share_also_in_train(train, validation), 6)}
    return {"splits": splits, "images": described, "overlap": {"fraction_also_in_train": shared}}


def _read_splits(folder: Path, manifest: dict[str, Any]) -> dict[str, LabelledImages]:
    if "tfds" not in manifest:
        from kleiber.train.data.corpora.images.images_builder import read_records

        return {split: read_records(folder / manifest["records"], split) for split in manifest["splits"]}
    from kleiber.train.data.corpora.images.reading import read_tfds

    described, where = manifest["tfds"], f"tfds:{manifest['tfds']['name']}"
    if described["is_split_by_hash"]:
        found = read_tfds(described, "train")
        check_images(found, where)
        splits = split_by_hash(found)
    else:
        splits = {split: read_tfds(described, split) for split in manifest["splits"]}
        for split, found in splits.items():
            check_images(found, f"{where}, split '{split}',")
    check_split(splits["train"], splits["validation"], where)
    return splits


def verified_array(folder: Path, split: str, part: str, manifest: dict[str, Any]) -> np.ndarray:
    """Returns the images or labels of a split, memory-mapped, after their file was checked. Raises ValueError if it is
    missing or damaged, or there is no such split."""
    if split not in manifest["splits"]:
        raise ValueError(f"this corpus has no split '{split}', only {', '.join(manifest['splits'])}.")
    path = folder / "images" / f"{split}.{part}.npy"
    remedy = f"delete {folder} and run `kleiber data prepare` again"
    if not path.is_file():
        raise ValueError(f"{path} is missing; {remedy}.")
    if blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest() != manifest["splits"][split]["blake3"][path.name]:
        raise ValueError(f"{path} is damaged; {remedy}.")
    return np.load(path, mmap_mode="r", allow_pickle=False)
