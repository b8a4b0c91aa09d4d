"""The step log of a run: JSON lines, each step once even after a resume."""

import json
import os
from pathlib import Path
from typing import Any

from kleiber.files import replacing


class Metrics:
    """The step log of a trunk and its branches: JSON lines, each step once even after a resume."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, row: dict[str, Any]) -> None:
        """Adds one row."""
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Brings the rows to the disk: those of a checkpoint must be there when it is."""
        if self.path.exists():
            with open(self.path, "a") as file:
                os.fsync(file.fileno())

    def keep_only(self, branch: str, step: int) -> None:
        """Removes every row but those of a branch (or of "trunk") up to step."""
        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        self._write([row for row in rows if row["segment"] == branch and row["step"] <= step])

    def truncate(self, branch: str, step: int) -> float:
        """Removes rows of a branch beyond step, and a last line cut short by a kill. Returns the seconds they took."""
        if not self.path.exists():
            return 0.0
        rows = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        kept = [row for row in rows if row["segment"] != branch or row["step"] <= step]
        lost = [row for row in rows if row["segment"] == branch and row["step"] > step]
        self._write(kept)
        per_step = lost[0]["num_tokens"] / lost[0]["step"] if lost else 0.0
        return sum(
            (row["step"] - max(step, before)) * per_step / row["tokens_per_second"]
            for before, row in zip([step, *(row["step"] for row in lost)], lost, strict=False)
        )

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with replacing(self.path, is_durable=False) as partial:  # the next `sync` brings it to the disk
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
