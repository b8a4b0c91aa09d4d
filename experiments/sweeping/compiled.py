"""The compilation cache of this machine, believed only where a digest beside an entry holds: entries are machine code.

JAX keeps each compiled program in a file NAME-cache, and checks no digest where it compresses by zstandard. A worker
removes what has no digest or another one when it starts, and writes the digests of what is new once it has compiled.
"""

import contextlib
import os
from pathlib import Path

from blake3 import blake3

from kleiber.files import write_whole
from kleiber.train.data.cache import cache_folder


def cache_of_programs() -> tuple[Path, bool]:
    """Returns the folder of the compilation cache that this process uses, and whether it is kleiber's own."""
    own = cache_folder() / "compiled"
    folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", own))
    return folder, folder == own


def remove_damaged(folder: Path, is_ours: bool) -> list[str]:
    """Removes the entries that differ from their digest, and returns their names.

    Args:
      folder: of the cache.
      is_ours: whether kleiber alone writes there; then entries without a digest go too, of a worker that was killed.
    """
    removed = []
    for entry in sorted(folder.glob("*-cache")):
        with contextlib.suppress(OSError):  # another worker has removed it
            expected = _beside(entry).read_text() if _beside(entry).exists() else None
            if expected is None and not is_ours:
                continue
            if expected != _digest(entry):
                entry.unlink()
                _beside(entry).unlink(missing_ok=True)
                removed += [entry.name] if expected else []
    return removed


def seal_new(folder: Path) -> None:
    """Writes the digest of every entry that has none."""
    for entry in folder.glob("*-cache"):
        if not _beside(entry).exists():
            with contextlib.suppress(OSError):  # a full disk: the entry is compiled again another time
                write_whole(_beside(entry), _digest(entry))


def _beside(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.blake3")


def _digest(entry: Path) -> str:
    """Returns the digest of an entry under its name, so that two that were exchanged show; "" if it is no file."""
    return blake3(entry.name.encode() + b"\n" + entry.read_bytes()).hexdigest() if entry.is_file() else ""
