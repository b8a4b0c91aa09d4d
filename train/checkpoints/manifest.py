"""The manifest of a checkpoint: sizes and digests of every file and every array, and the checks made with it.

It is written last, so a folder without it is no checkpoint. It is data, and is not believed: its size is limited, its
own digest is checked, the files it names must lie inside the checkpoint, and the arrays it claims must fit in memory
before any is read.
"""

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

import blake3
import numpy as np

from kleiber.files import read_plain

FORMAT = 2
"""Format 1 (release 0.1) had no file sizes and no identity; it is still read."""
MAX_MANIFEST_BYTES = 64_000_000
"""A manifest takes about 200 bytes an array and 150 a file."""


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged; the message says which part."""


class CannotSave(RuntimeError):
    """A checkpoint could not be written; the older ones are untouched."""


class WrongRun(CheckpointError):
    """A whole checkpoint, but of another model, optimizer, data or seed; the message lists every difference."""


def seal(manifest: dict[str, Any]) -> bytes:
    """Returns a manifest as the bytes of its file, with its own digest in it."""
    sealed = {**manifest, "blake3": _own_digest(manifest)}
    return json.dumps(sealed, indent=1, sort_keys=True).encode()


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Returns the manifest of a checkpoint folder, its own digest checked, in the newest form.

    Raises:
      CheckpointError: missing, too large, damaged, or of a format this version does not read.
    """
    path = checkpoint / "manifest.json"
    try:
        if checkpoint.is_symlink() or path.is_symlink():
            raise ValueError("it is a symbolic link; checkpoints are read from their own folder only")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes, more than the {MAX_MANIFEST_BYTES:,} ever written")
        manifest = json.loads(read_plain(path))
        if manifest.pop("blake3") != _own_digest(manifest):
            raise ValueError("it differs from its own digest")
        if manifest["format"] == 1:
            files = {name: {"bytes": None, "blake3": digest} for name, digest in manifest["files"].items()}
            manifest |= {"files": files, "identity": None}
        elif manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{checkpoint} has format {manifest['format']!r}; this version of kleiber reads 1 to {FORMAT}. "
                f"Read it with the version that wrote it ({manifest.get('versions', {}).get('kleiber', 'unknown')})."
            )
        _check_form(manifest)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {checkpoint}: it has no manifest.json") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as problem:
        what = f"no key {problem}" if isinstance(problem, KeyError) else problem
        raise CheckpointError(f"{checkpoint}: manifest.json cannot be trusted ({what})") from None
    return manifest


def check_files(checkpoint: Path, manifest: dict[str, Any]) -> None:
    """Checks every file of a checkpoint against size and digest, and that none is there that was not written.

    Raises:
      CheckpointError: names the first file that fails, and how.
    """
    for name, expected in manifest["files"].items():
        path = checkpoint / name
        if path.is_symlink() or not path.is_file():
            raise CheckpointError(
                f"{checkpoint}: file {name} is {'a symbolic link' if path.is_symlink() else 'missing'}"
            )
        size = path.stat().st_size
        if expected["bytes"] is not None and size != expected["bytes"]:
            raise CheckpointError(f"{checkpoint}: file {name} has {size:,} bytes, {expected['bytes']:,} were written")
        if file_digest(path) != expected["blake3"]:
            raise CheckpointError(f"{checkpoint}: file {name} differs from its digest")
    for path in files_of(checkpoint):
        if path.relative_to(checkpoint).as_posix() not in manifest["files"]:
            raise CheckpointError(f"{checkpoint}: file {path.relative_to(checkpoint)} was not written by kleiber")


def check_memory(checkpoint: Path, manifest: dict[str, Any]) -> None:
    """Checks, before anything is read, that the arrays fit in this machine's memory.

    Raises:
      CheckpointError: they do not, or their description makes no sense.
    """
    import psutil

    try:
        total = sum(math.prod(a["shape"]) * np_dtype(a["dtype"]).itemsize for a in manifest["arrays"].values())
    except (TypeError, KeyError, AttributeError) as problem:
        raise CheckpointError(f"{checkpoint}: manifest.json describes arrays that make no sense ({problem})") from None
    free = psutil.virtual_memory().available
    if total > free:
        raise CheckpointError(f"{checkpoint} holds arrays of {total:,} bytes, and {free:,} bytes of memory are free")


def np_dtype(name: str) -> np.dtype:
    """Returns a dtype by name, bfloat16 and its kin included."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def describe(array: np.ndarray) -> dict[str, Any]:
    """Returns shape, dtype and digest of an array."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    digest = blake3.blake3(content.data, max_threads=blake3.blake3.AUTO).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "blake3": digest}


def file_digest(path: Path) -> str:
    """Returns the BLAKE3 of a file."""
    return blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(path).hexdigest()


def files_of(checkpoint: Path) -> list[Path]:
    """Returns every file of a checkpoint folder but its manifest."""
    return sorted(p for p in checkpoint.rglob("*") if not p.is_dir() and p != checkpoint / "manifest.json")


def _check_form(manifest: dict[str, Any]) -> None:
    """Raises ValueError unless everything in a manifest is of the kind that is written."""
    kinds = {"step": int, "extra": dict, "identity": dict | None, "arrays": dict, "files": dict}
    for key, kind in kinds.items():
        if not isinstance(manifest[key], kind) or isinstance(manifest[key], bool):
            raise ValueError(f"its {key} is {str(manifest[key])[:60]!r}")
    for name, array in manifest["arrays"].items():
        shape = array["shape"]
        if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"the shape of array {name[:60]!r} is {str(shape)[:60]!r}")
        np_dtype(array["dtype"])
    for name, file in manifest["files"].items():
        _check_inside(name)
        if not isinstance(file["blake3"], str) or not isinstance(file["bytes"], int | None):
            raise ValueError(f"file {name[:60]!r} is described by {str(file)[:60]!r}")


def _check_inside(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or "\\" in name:
        raise ValueError(f"it names a file outside its folder, {name!r}")


def _own_digest(manifest: dict[str, Any]) -> str:
    return blake3.blake3(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
