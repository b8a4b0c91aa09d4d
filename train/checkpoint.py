"""Checkpoints: arrays by Orbax, and around them our manifest with a digest of every file and every array.

Orbax restores a flipped bit silently, so nothing is believed before its digest is checked. A checkpoint is a folder
`step_<n>`; it appears by one rename after its manifest is on disk, so a half-written one never has that name.
"""

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import jax
import numpy as np

log = logging.getLogger(__name__)
FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another configuration; the message says which part."""


@dataclass(frozen=True)
class Checkpoint:
    """One restored checkpoint."""

    step: int
    state: Any
    """The tree that was saved, with NumPy leaves."""
    extra: dict[str, Any]
    """What was saved beside the arrays: data position, schedule position, counters."""


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of tree by path, such as `params/embedding`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def save(folder: Path, step: int, state: Any, extra: dict[str, Any], keep: int = 1) -> Path:
    """Writes one checkpoint durably and returns its folder; older ones beyond keep are removed after it.

    Args:
      folder: where the checkpoints of this trunk or branch live.
      step: optimizer steps done.
      state: tree of arrays.
      extra: JSON-able values saved with it.
      keep: how many checkpoints to keep.
    """
    import orbax.checkpoint as ocp

    folder = folder.absolute()  # Orbax takes no relative path
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / f"step_{step}", folder / f"partial_{step}_{os.getpid()}"
    for leftover in folder.glob("partial_*"):
        shutil.rmtree(leftover, ignore_errors=True)
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(state).items()}
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(partial / "arrays", _nested(arrays))
    manifest = {
        "format": FORMAT,
        "step": step,
        "extra": extra,
        "arrays": {name: _describe(array) for name, array in arrays.items()},
        "files": {str(file.relative_to(partial)): _file_digest(file) for file in _files(partial)},
        "versions": {"jax": jax.__version__, "orbax": ocp.__version__, "numpy": np.__version__},
    }
    manifest["blake3"] = _manifest_digest(manifest)
    _write_durably(partial / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode())
    if final.exists():
        shutil.rmtree(final)
    os.rename(partial, final)
    _sync_folder(folder)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step_{old}", ignore_errors=True)
    return final


def steps(folder: Path) -> list[int]:
    """Returns the steps that have a whole checkpoint in folder, increasing."""
    found = (path.name.removeprefix("step_") for path in folder.glob("step_*") if (path / "manifest.json").exists())
    return sorted(int(name) for name in found if name.isdigit())


def restore_newest(folder: Path, like: Any) -> Checkpoint | None:
    """Returns the newest checkpoint that passes every check, or None if there is none at all.

    A damaged one is skipped with a warning in favour of an older one.

    Raises:
      CheckpointError: when there are checkpoints and none passes.
    """
    problems = []
    for step in reversed(steps(folder)):
        try:
            return restore(folder, step, like)
        except CheckpointError as problem:
            log.warning("%s", problem)
            problems.append(str(problem))
    if problems:
        raise CheckpointError("no checkpoint can be trusted: " + "; ".join(problems))
    return None


def restore(folder: Path, step: int, like: Any) -> Checkpoint:
    """Returns one verified checkpoint, shaped like `like`.

    Args:
      folder: where the checkpoints live.
      step: which one.
      like: a tree of arrays or shapes with the structure to fill.

    Raises:
      CheckpointError: damage (which file or array), or a tree that differs (which names, shapes or types).
    """
    arrays, manifest = load_arrays(folder / f"step_{step}")
    expected = named_leaves(like)
    problems = [f"{name} is missing" for name in expected.keys() - arrays.keys()]
    problems += [f"{name} is not expected" for name in arrays.keys() - expected.keys()]
    for name in expected.keys() & arrays.keys():
        want, have = expected[name], arrays[name]
        if (tuple(want.shape), str(want.dtype)) != (have.shape, str(have.dtype)):
            problems.append(f"{name} is {have.dtype}{list(have.shape)}, expected {want.dtype}{list(want.shape)}")
    if problems:
        raise CheckpointError(f"{folder / f'step_{step}'} belongs to another model or optimizer: {'; '.join(problems)}")
    state = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in expected])
    return Checkpoint(manifest["step"], state, manifest["extra"])


def load_arrays(checkpoint: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays by name, manifest) of one checkpoint folder as plain host arrays, every digest checked.

    Needs no model and no mesh: `arrays, manifest = load_arrays(Path("runs/.../checkpoints/trunk/step_600"))`.

    Raises:
      CheckpointError: damage, named.
    """
    import orbax.checkpoint as ocp

    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        if manifest.pop("blake3") != _manifest_digest(manifest):
            raise ValueError("it differs from its own digest")
        files, descriptions = manifest["files"], manifest["arrays"]
    except (OSError, ValueError, KeyError, AttributeError) as problem:
        raise CheckpointError(f"{checkpoint}: manifest.json cannot be trusted ({problem})") from None
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{checkpoint}: format {manifest.get('format')!r}, this version reads {FORMAT}")
    for name, digest in files.items():
        path = checkpoint / name
        if not path.is_file() or _file_digest(path) != digest:
            state = "differs from its digest" if path.is_file() else "is missing"
            raise CheckpointError(f"{checkpoint}: file {name} {state}")
    handler = ocp.PyTreeCheckpointHandler()
    targets = _nested({name: ocp.RestoreArgs(restore_type=np.ndarray) for name in descriptions})
    restored = ocp.Checkpointer(handler).restore((checkpoint / "arrays").absolute(), restore_args=targets)
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(restored).items()}
    arrays = {name.replace("%2F", "/"): array for name, array in arrays.items()}
    for name, description in descriptions.items():
        if name not in arrays or _describe(arrays[name]) != description:
            raise CheckpointError(f"{checkpoint}: array {name} differs from its digest")
    return arrays, manifest


def remove(folder: Path) -> None:
    """Removes all checkpoints of a folder that is no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)


def _manifest_digest(manifest: dict[str, Any]) -> str:
    return blake3.blake3(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _nested(named: dict[str, Any]) -> dict[str, Any]:
    # One flat level: Orbax stores each leaf under its name, and '/' must not become a folder.
    return {name.replace("/", "%2F"): value for name, value in named.items()}


def _describe(array: np.ndarray) -> dict[str, Any]:
    digest = blake3.blake3(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "blake3": digest}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")


def _file_digest(path: Path) -> str:
    return blake3.blake3(path.read_bytes()).hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
