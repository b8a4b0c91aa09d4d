"""The cache folder of prepared corpora: complete folders only, built by one process at a time."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Returns the folder of all cached data: the environment variable KLEIBER_CACHE, or ~/.cache/kleiber."""
    chosen = os.environ.get("KLEIBER_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "kleiber"


def build_folder(folder: Path, is_complete: Callable[[Path], bool], build: Callable[[Path], None]) -> bool:
    """Builds a folder once, so that it is either whole or absent, whichever process does it. Raises ValueError if
    something that is not whole stands at `folder`.

    The content is written to a sibling folder and renamed when it is finished. A process that is killed half-way
    leaves only that sibling, which the next builder removes.

    Args:
      folder: where the finished content goes.
      is_complete: says of a folder whether it is whole.
      build: writes the content into the empty folder it is given.

    Returns:
      True if this call built it, False if it was there already.
    """
    if is_complete(folder):
        return False
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if is_complete(folder):  # another process finished it while this one waited
            return False
        if folder.exists():
            raise ValueError(f"{folder} is not a complete prepared folder; delete it and prepare again.")
        partial = folder.parent / f".{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            build(partial)
            os.rename(partial, folder)
        except Exception as problem:
            text = str(problem)
            if not any(word in text for word in ("No space left", "File too large", "RESOURCE_EXHAUSTED", "quota")):
                raise
            free = shutil.disk_usage(folder.parent).free / 1e6
            raise OSError(
                errno.ENOSPC,
                f"No space left for prepared data ({text.splitlines()[0][:200]}; {free:,.1f} MB free). Make room, or "
                f"point KLEIBER_CACHE to a larger disk; nothing half-made is kept",
                str(folder),
            ) from problem
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True
