"""The step log of a run: JSON lines, each step once even after a resume, each line with a check of its own."""

import os
from pathlib import Path
from typing import Any

from kleiber.files import check_plain, checked_line, must_be_sealed, open_to_append, read_plain, replacing, row_of


class Metrics:
    """The step log of a trunk and its branches: JSON lines, each step once even after a resume."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, row: dict[str, Any]) -> None:
        """Adds one row."""
        with open_to_append(self.path) as file:
            file.write(checked_line(row))

    def sync(self) -> None:
        """Brings the rows to the disk: those of a checkpoint must be there when it is."""
        if self.path.exists():
            with open_to_append(self.path) as file:
                os.fsync(file.fileno())

    def keep_only(self, branch: str, step: int) -> None:
        """Removes every row but those of a branch (or of "trunk") up to step."""
        self._write([row for row in whole_rows(self.path) if row["segment"] == branch and row["step"] <= step])

    def truncate(self, branch: str, step: int) -> float:
        """Removes rows of a branch beyond step, and lines that are not whole. Returns the seconds the rows took."""
        if not self.path.exists():
            return 0.0
        kept: list[dict[str, Any]] = []
        lost: list[dict[str, Any]] = []
        for row in whole_rows(self.path):
            (lost if row["segment"] == branch and row["step"] > step else kept).append(row)
        self._write(kept)
        return sum(
            (row["step"] - max(step, before)) * row.get("num_tokens", 0) / row["step"] / row["tokens_per_second"]
            for before, row in zip([step, *(row["step"] for row in lost)], lost, strict=False)
            if row.get("tokens_per_second")
        )

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with replacing(self.path, is_durable=False) as partial:  # the next `sync` brings it to the disk
            partial.write_text("".join(map(checked_line, rows)))


def read_rows(path: Path) -> list[dict[str, Any] | None]:
    """Returns the row of each line of a step log, without its check; None for a line that is not as it was written.

    A line of before there were checks is read as it stands, where files were not sealed yet.

    Raises:
      ValueError: the path is no file, or one that nobody wrote.
    """
    is_checked = must_be_sealed(path)
    return [_row(line, is_checked) for line in read_plain(path).decode(errors="replace").splitlines()]


def rows_after(path: Path, place: int, most_bytes: int = 1 << 20) -> tuple[list[dict[str, Any]], int]:
    """Returns the whole rows that a growing log holds from a byte on, and the byte to go on from.

    Args:
      path: of the log; one that has become shorter was taken up from a checkpoint, and is read from its beginning.
      place: byte where a line begins.
      most_bytes: that are read at once.
    """
    if check_plain(path).st_size < place:
        place = 0
    with open(path, "rb") as file:
        file.seek(place)
        text = file.read(most_bytes)
    whole = text[: text.rfind(b"\n") + 1]
    is_checked = must_be_sealed(path)
    rows = (_row(line, is_checked) for line in whole.decode(errors="replace").splitlines())
    return [row for row in rows if row is not None], place + len(whole)


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of the lines that are whole; raises as `read_rows`."""
    return [row for row in read_rows(path) if row is not None]


def _row(line: str, is_checked: bool) -> dict[str, Any] | None:
    row = row_of(line, is_checked) or {}
    segment, step = row.get("segment"), row.get("step")
    return row if isinstance(segment, str) and isinstance(step, int) and step > 0 else None
