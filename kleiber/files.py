"""Files that are whole or not there. Every room may write one, so this stands below them all and imports none."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path, is_durable: bool = True) -> Iterator[Path]:
    """Yields a place beside a file to write it anew: it takes the file's name at the end, or goes if that failed.

    A reader sees the old file or the new one, never half of it; processes that write the same file at once do not mix.

    Args:
      path: of the file; its folder must be there.
      is_durable: whether the content is on the disk before the name is, so that a loss of power leaves one whole.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # new, and so never somebody's link
    try:
        yield partial
        if is_durable:
            _sync(partial, os.O_RDWR)
        os.replace(partial, path)
        if is_durable:
            _sync(path.parent, os.O_RDONLY)  # the name is on the disk only once the folder is
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file durably and whole; makes its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: Path, data: Any) -> None:
    """Writes data as JSON durably and whole; makes its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, open(partial, "w") as file:
        json.dump(data, file, indent=1)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Returns the JSON of path.

    Raises:
      ValueError: the file is damaged; says which.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as problem:
        raise ValueError(f"{path} is not whole JSON ({problem}); remove it to have that part done again.") from None
