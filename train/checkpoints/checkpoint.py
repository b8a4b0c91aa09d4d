"""Checkpoints: arrays by Orbax, and around them our manifest with a digest of every file and every array.

Orbax restores a flipped bit silently, so nothing is believed before its digest is checked. A checkpoint is a folder
`step_<n>`; it appears by one rename after its manifest is on disk, so a half-written one never has that name.
"""

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kleiber.train.checkpoints.identity import allow_words, differences, is_allowed, show
from kleiber.train.checkpoints.manifest import (
    FORMAT,
    CannotSave,
    CheckpointError,
    WrongRun,
    check_files,
    check_memory,
    describe,
    file_digest,
    files_of,
    read_manifest,
    seal,
)

__all__ = ["Checkpoint", "CheckpointError", "CannotSave", "NotFinite", "WrongRun"]  # what callers catch
log = logging.getLogger(__name__)
DAMAGED = "damaged_"
"""A checkpoint that failed its checks keeps its content under this name until a newer one is safe."""


def on_stage(stage: str) -> None:
    """Called as each stage of a save begins: arrays, digests, manifest, commit, clean. The kill tests stop here."""


class NotFinite(CheckpointError):
    """The state to save holds a number that is not finite; nothing was written."""


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


def tree_of(leaves: dict[str, Any]) -> dict[str, Any]:
    """Returns leaves by path as nested dictionaries: what named_leaves is of."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return tree


def save(
    folder: Path,
    step: int,
    state: Any,
    extra: dict[str, Any],
    keep: int = 1,
    identity: dict[str, Any] | None = None,
) -> Path:
    """Writes one checkpoint durably and returns its folder; older ones beyond keep are removed after it.

    When this returns, the checkpoint survives a loss of power. A step that is there already, whole and with the same
    arrays, is left as it is.

    Args:
      folder: where the checkpoints of this trunk or branch live.
      step: optimizer steps done.
      state: tree of arrays.
      extra: JSON-able values saved with it.
      keep: how many checkpoints to keep.
      identity: JSON-able description of the run (`run_identity`), checked when it is resumed.

    Raises:
      CannotSave: no space, no permission, or any other failure to write; says the path and the free space.
      NotFinite: a NaN or an infinity in the state, by name.
    """
    folder = folder.absolute()  # Orbax takes no relative path
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(state).items()}
    check_finite(arrays, f"the state of step {step}")
    final, partial = folder / f"step_{step}", folder / f"partial_{step}_{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(folder.glob("partial_*"))
        if not _is_saved(final, arrays):
            _check_space(folder, arrays)
            _write(partial, step, arrays, extra, identity)
            on_stage("commit")
            if final.exists():  # it does not hold this state, or is damaged
                _remove([final])
            os.rename(partial, final)
            _sync(folder)
        on_stage("clean")
        _remove([folder / f"step_{old}" for old in steps(folder)[:-keep]])
        _remove(folder.glob(f"{DAMAGED}*"))
    except (MemoryError, CheckpointError):
        raise
    except Exception as problem:
        shutil.rmtree(partial, ignore_errors=True)
        raise CannotSave(_why(folder, step, arrays, problem)) from problem
    return final


def steps(folder: Path) -> list[int]:
    """Returns the steps that have a whole checkpoint in folder, increasing."""
    found = (path.name.removeprefix("step_") for path in folder.glob("step_*") if (path / "manifest.json").exists())
    return sorted(int(name) for name in found if name.isascii() and name.isdigit())


def restore_newest(
    folder: Path, like: Any, identity: dict[str, Any] | None = None, allow: tuple[str, ...] = ()
) -> Checkpoint | None:
    """Returns the newest checkpoint that passes every check, or None if there is none at all.

    A damaged one is skipped with a warning in favour of an older one, and set aside under another name.

    Args:
      folder, like, identity, allow: as for restore.

    Raises:
      WrongRun: the checkpoints are whole but belong to another run.
      CheckpointError: when there are checkpoints and none passes.
    """
    problems = []
    for step in reversed(steps(folder)):
        try:
            restored = restore(folder, step, like, identity, allow)
        except WrongRun:
            raise
        except CheckpointError as problem:
            log.warning("%s; an older checkpoint is used if there is one", problem)
            problems.append((step, str(problem)))
        else:
            for damaged, _ in problems:
                _set_aside(folder, damaged)
            return restored
    if problems:
        raise CheckpointError(
            "no checkpoint can be trusted: "
            + "; ".join(text for _, text in problems)
            + f". Remove {folder} to train this part again from its beginning."
        )
    return None


def restore(
    folder: Path, step: int, like: Any, identity: dict[str, Any] | None = None, allow: tuple[str, ...] = ()
) -> Checkpoint:
    """Returns one verified checkpoint, shaped like `like`.

    Args:
      folder: where the checkpoints live.
      step: which one; that it is missing is an error.
      like: a tree of arrays or shapes with the structure to fill.
      identity: of the run that wants it; None compares nothing.
      allow: fields of the identity that may differ.

    Raises:
      WrongRun: another identity, or a tree that differs (which names, shapes or types).
      CheckpointError: missing, or damage (which file or array).
    """
    place = folder / f"step_{step}"
    if not place.exists():
        raise CheckpointError(f"there is no checkpoint of step {step} in {folder}; it has {steps(folder) or 'none'}")
    manifest = read_manifest(place)
    check_identity(place, manifest, identity, allow)
    expected = named_leaves(like)
    _check_shapes(place, manifest["arrays"], expected)
    arrays, manifest = load_arrays(place)
    state = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in expected])
    return Checkpoint(manifest["step"], state, manifest["extra"])


def check_identity(
    place: Path, manifest: dict[str, Any], identity: dict[str, Any] | None, allow: tuple[str, ...]
) -> None:
    """Checks that a checkpoint belongs to a run.

    Raises:
      WrongRun: lists every field that differs and is not allowed to.
    """
    if identity is None or manifest["identity"] is None:
        return
    found = [d for d in differences(manifest["identity"], identity) if not is_allowed(d[0], allow)]
    if found:
        raise WrongRun(
            f"{place} is of another run. Differences (there -> here):\n  "
            + "\n  ".join(map(show, found))
            + f"\nUse another folder, or allow what may differ: {allow_words(found)}"
        )


def _checkpointer() -> tuple[Any, Any]:
    """Returns Orbax's checkpointer and handler for this process alone: arrays come whole, nobody waits for peers."""
    import orbax.checkpoint as ocp

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(me, {me}, f"kleiber_{me}") if jax.process_count() > 1 else None
    settings = {} if alone is None else {"multiprocessing_options": alone}
    # Weights hardly compress (8 percent), and compressing takes more time than all our checks.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, **settings)
    return ocp.Checkpointer(handler, **settings), handler


def load_arrays(checkpoint: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays by name, manifest) of one checkpoint folder as plain host arrays, every digest checked.

    Needs no model and no mesh: `arrays, manifest = load_arrays(Path("runs/.../checkpoints/trunk/step_600"))`.

    Raises:
      CheckpointError: damage, named.
    """
    import orbax.checkpoint as ocp

    checkpoint = checkpoint.absolute()
    manifest = read_manifest(checkpoint)
    check_files(checkpoint, manifest)
    check_memory(checkpoint, manifest)
    descriptions = manifest["arrays"]
    try:
        checkpointer, handler = _checkpointer()
        stored = handler.metadata(checkpoint / "arrays").tree
        claimed = {_unescape(name): (list(a.shape), str(a.dtype)) for name, a in stored.items()}
        described = {name: (a["shape"], a["dtype"]) for name, a in descriptions.items()}
        if claimed != described:  # before Orbax makes room for what its own files claim
            raise CheckpointError(f"{checkpoint}: its arrays are not those of manifest.json")
        targets = {_escape(name): ocp.RestoreArgs(restore_type=np.ndarray) for name in descriptions}
        restored = checkpointer.restore(checkpoint / "arrays", restore_args=targets)
        arrays = {_unescape(name): np.asarray(leaf) for name, leaf in restored.items()}
    except CheckpointError:
        raise
    except Exception as problem:  # whatever Orbax and its libraries raise on unfit content
        raise CheckpointError(
            f"{checkpoint}: its arrays cannot be read ({type(problem).__name__}: {problem})"
        ) from None
    for name, description in descriptions.items():
        if name not in arrays or describe(arrays[name]) != description:
            raise CheckpointError(f"{checkpoint}: array {name} differs from its digest")
    return arrays, manifest


def check_finite(arrays: dict[str, np.ndarray], what: str) -> None:
    """Checks that no array holds a NaN or an infinity.

    Raises:
      NotFinite: names the arrays.
    """
    bad = [n for n, a in arrays.items() if not np.issubdtype(a.dtype, np.integer) and not np.isfinite(a).all()]
    if bad:
        raise NotFinite(f"{what} is not finite in {', '.join(bad[:5])}{' and more' if len(bad) > 5 else ''}: not saved")


def remove(folder: Path) -> None:
    """Removes all checkpoints of a folder that is no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)


def _write(partial: Path, step: int, arrays: dict, extra: dict[str, Any], identity: dict[str, Any] | None) -> None:
    """Writes the whole content of a checkpoint to partial and brings it to the disk."""
    import orbax.checkpoint as ocp

    on_stage("arrays")
    with ThreadPoolExecutor(1) as pool:  # digests of the arrays are made while Orbax compresses and writes
        described = pool.submit(lambda: {name: describe(array) for name, array in arrays.items()})
        escaped = {_escape(name): array for name, array in arrays.items()}
        _checkpointer()[0].save(partial / "arrays", escaped)
        descriptions = described.result()
    on_stage("digests")
    manifest = {
        "format": FORMAT,
        "step": step,
        "extra": extra,
        "identity": identity,
        "arrays": descriptions,
        "files": {
            file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "blake3": file_digest(file)}
            for file in files_of(partial)
        },
        "versions": {"jax": jax.__version__, "orbax": ocp.__version__, "numpy": np.__version__},
    }
    on_stage("manifest")
    (partial / "manifest.json").write_bytes(seal(manifest))
    for path in [*partial.rglob("*"), partial]:
        _sync(path)


def _is_saved(final: Path, arrays: dict[str, np.ndarray]) -> bool:
    """Returns whether final is a whole checkpoint of just these arrays."""
    if not final.exists():
        return False
    try:
        manifest = read_manifest(final)
        check_files(final, manifest)
    except CheckpointError:
        return False
    return manifest["arrays"] == {name: describe(array) for name, array in arrays.items()}


def _check_shapes(place: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    problems = [f"{name} is missing" for name in expected.keys() - stored.keys()]
    problems += [f"{name} is not expected" for name in stored.keys() - expected.keys()]
    for name in sorted(expected.keys() & stored.keys()):
        want, have = expected[name], stored[name]
        if (list(want.shape), str(want.dtype)) != (have["shape"], have["dtype"]):
            problems.append(f"{name} is {have['dtype']}{have['shape']}, expected {want.dtype}{list(want.shape)}")
    if problems:
        raise WrongRun(f"{place} belongs to another model or optimizer: {'; '.join(problems)}")


def _check_space(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises OSError before anything is written when the arrays cannot fit."""
    wanted, free = sum(a.nbytes for a in arrays.values()), shutil.disk_usage(folder).free
    if free < wanted // 2:  # floats shrink by about a tenth, zeros to nothing
        raise OSError(28, "No space left on device")


def _why(folder: Path, step: int, arrays: dict[str, np.ndarray], problem: Exception) -> str:
    parent = next(place for place in (folder, *folder.parents) if place.exists())
    free, wanted = shutil.disk_usage(parent).free, sum(a.nbytes for a in arrays.values())
    reason = str(problem).strip().splitlines()[0][:300] if str(problem).strip() else type(problem).__name__
    kept = steps(folder)
    return (
        f"the checkpoint of step {step} could not be written to {folder}: {reason} ({free / 1e6:,.1f} MB free, about "
        f"{wanted / 1e6:,.1f} MB wanted). "
        + (f"Step {kept[-1]} is kept whole." if kept else "No older step was saved.")
    )


def _set_aside(folder: Path, step: int) -> None:
    try:
        os.replace(folder / f"step_{step}", folder / f"{DAMAGED}{step}_{os.getpid()}")
    except OSError as problem:  # a read-only folder: reading goes on
        log.warning("%s could not be set aside: %s", folder / f"step_{step}", problem)


def _remove(paths: Any) -> None:
    for path in list(paths):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


def _escape(name: str) -> str:
    # One flat level: Orbax stores each leaf under its name, and '/' must not become a folder.
    return name.replace("/", "%2F")


def _unescape(name: str) -> str:
    return name.replace("%2F", "/")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
