"""Files that are whole or not there. Every room may write one, so this stands below them all and imports none."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from blake3 import blake3

DIGEST = "blake3"
"""Of the seals; the first mark of a sealed file."""
MAX_TEXT_BYTES = 500_000_000
"""More than the fit of a million runs takes."""
CHECK = "check"
"""The last key of a line of a log: the first digits of the digest of the rest."""
SEALED_LATER = ("progress.json", "goodput.jsonl", ".head")
"""Ends of names of files from which no number of a result is read: beside sealed records they may be plain."""
LOST = "it has no seal, and the files of its directory were sealed: it was changed by hand"
MARKS = ("sealed", "seal")
"""The first and the last key of a sealed object."""
HOME = ("experiment.json", "made_with.json", "manifest.json")
"""Files of a sweep's directory, or of a corpus: where one is sealed, every file of the sweep and of its runs, or of the
tokens, was."""


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
    """Writes data as JSON durably and whole, an object under its seal; makes its folder if it is missing."""
    write_whole(path, sealed_text(data) + "\n")


def sealed_text(data: Any) -> str:
    """Returns data as JSON to read; an object between two marks: what kind of digest, and the digest of the rest."""
    if isinstance(data, dict):
        data = {"sealed": DIGEST, **data, "seal": digest_of(data)}
    return _indented(data, "\n")


def _indented(data: Any, line: str) -> str:
    """Returns what json.dumps(data, indent=1) does, in a tenth of the time where lists are long.

    Args:
      data: JSON.
      line: what a line of its level begins with, the end of the one before included.
    """
    inner = line + " "
    if isinstance(data, dict) and data:
        names = (json.dumps({name: 0})[1:-4] for name in data)
        rows = (f"{name}: {_indented(value, inner)}" for name, value in zip(names, data.values(), strict=True))
        return f"{{{inner}{f',{inner}'.join(rows)}{line}}}"
    if isinstance(data, list | tuple) and data:
        if any(issubclass(kind, dict | list | tuple) for kind in set(map(type, data))):
            return f"[{inner}{f',{inner}'.join(_indented(value, inner) for value in data)}{line}]"
        return f"[{inner}{json.dumps(data, separators=(f',{inner}', ': '))[1:-1]}{line}]"
    return json.dumps(data)


def digest_of(data: Any) -> str:
    """Returns the BLAKE3 of JSON data as text without spaces, keys in their order."""
    return blake3(json.dumps(data, separators=(",", ":")).encode()).hexdigest()


def unsealed(data: dict[str, Any]) -> dict[str, Any]:
    """Returns an object without its marks, once they are checked; one with neither is of before there were any.

    There are two, so that damage to the name of one never looks like an old file.

    Raises:
      ValueError: it is not what was written.
    """
    marks = data.keys() & set(MARKS)
    if not marks:
        return data
    rest = {name: value for name, value in data.items() if name not in marks}
    if data.get("sealed") != DIGEST or data.get("seal") != digest_of(rest):
        raise ValueError("it differs from its seal: it was damaged, or changed by hand")
    return rest


def read_json(path: Path, *names: str, kind: type = dict) -> Any:
    """Returns the JSON of a file, its seal checked and taken off.

    Args:
      path: of the file.
      *names: keys that it must have.
      kind: of what it holds: dict, list.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the file is damaged or none of this kind; says which, and what to do.
    """
    text = read_plain(path)
    try:
        return json_of(text, *names, kind=kind, path=path)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{path} is not whole JSON ({problem}); remove it to have that part done again.") from None


def json_of(text: bytes | str, *names: str, kind: type = dict, path: Path | None = None) -> Any:
    """Returns what `read_json` does, of a text; raises ValueError, or RecursionError where it is too deep.

    Args:
      text: JSON.
      *names, kind: as `read_json`.
      path: where it was read, which may say that it must have a seal; None of a text by itself.
    """
    data = json.loads(text)
    if not isinstance(data, kind):
        raise ValueError(f"it holds {type(data).__name__}, expected {kind.__name__}")
    if path and not has_seal(data) and must_be_sealed(path):
        raise ValueError(LOST)
    if isinstance(data, dict):
        data = unsealed(data)
        if missing := [name for name in names if name not in data]:
            raise ValueError(f"it has no {missing[0]}")
    return data


def has_seal(data: Any) -> bool:
    """Returns whether JSON data is an object with one of the marks of a seal."""
    return isinstance(data, dict) and not data.keys().isdisjoint(MARKS)


def must_be_sealed(path: Path) -> bool:
    """Returns whether a file, with a seal or without, lies in a sweep's directory, or in a run's folder of one, whose
    files were sealed: what has no seal there lost it. The kinds of SEALED_LATER had none when others had already."""
    if path.name.endswith(SEALED_LATER):
        return False
    homes = (path.parent, *path.parents[2:3])
    return any(_begins_sealed(home / name) for home in homes for name in HOME)


def _begins_sealed(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return f'"{MARKS[0]}"'.encode() in file.read(64)
    except OSError:
        return False


def checked_line(row: dict[str, Any]) -> str:
    """Returns a row as a line of a log, with a check of its own."""
    return json.dumps({**row, CHECK: digest_of(row)[:8]}) + "\n"


def row_of(line: str, is_checked: bool = False) -> dict[str, Any] | None:
    """Returns the row of a line without its check, None if it is not what was written.

    Args:
      line: of a log.
      is_checked: whether it must have a check; a line of before there were any has none.
    """
    try:
        row = json.loads(line)
        check = row.pop(CHECK, None)
        return row if check == digest_of(row)[:8] or (check is None and not is_checked) else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def check_plain(path: Path) -> os.stat_result:
    """Returns the status of a file that can be opened without waiting for anybody.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is a folder, a device or a pipe, which may never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        what = "folder" if stat.S_ISDIR(status.st_mode) else "pipe or device"
        raise ValueError(f"{path} is no file but a {what}; move it out of the way.")
    return status


def read_plain(path: Path) -> bytes:
    """Returns the bytes of a file; raises as `check_plain`, and for one larger than any text that is written."""
    if (size := check_plain(path).st_size) > MAX_TEXT_BYTES:
        raise ValueError(f"{path} has {size / 1e6:,.0f} MB, more than is read at once.")
    return path.read_bytes()


def open_to_append(path: Path) -> IO[str]:
    """Returns a text file to add lines to, UTF-8 whatever the locale.

    Raises:
      OSError: a link is in its place.
      ValueError: a pipe is, whose reader may never come, or a device or folder.
    """
    if path.exists():
        check_plain(path)

    def no_link(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    return open(path, "a", encoding="utf-8", errors="backslashreplace", opener=no_link)
