"""What a program of the user's has left of its losses, and the records of points that follow from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.arguments import pairs
from kleiber.experiments.directory.record import RunRecord, versions
from kleiber.experiments.planning.cells import TrunkCell
from kleiber.scaling.table.reading import read_file
from kleiber.scaling.table.table import RunTable, read_table
from kleiber.train.command import RECORDS, Command

TAKEN = ("loss_standard_error", "bits_per_byte", "epochs", "num_unique_tokens")
"""Columns of a program's record that go into ours as they are."""


@dataclass(frozen=True)
class CommandRows:
    """The losses that a program has left so far."""

    table: RunTable
    loss: np.ndarray
    """float64 [rows]."""
    num_tokens: np.ndarray | None
    """float64 [rows]; None where the record says neither tokens nor steps."""
    ends_at: int | None
    """The first row whose loss is no finite number."""

    def problem(self) -> str:
        """Returns which loss is no number, and where; nothing if all are."""
        if self.ends_at is None:
            return ""
        at = "" if self.num_tokens is None else f" at {self.num_tokens[self.ends_at]:,.0f} tokens"
        return f"the command's loss is {self.loss[self.ends_at]}{at} (row {self.ends_at + 1} of its record)"


def found_record(command: Command, folder: Path) -> Path | None:
    """Returns the record that a program has left in its folder; None where there is none."""
    names = [command.record] if command.record else RECORDS
    return next((folder / name for name in names if (folder / name).is_file()), None)


def no_record(command: Command, folder: Path) -> str:
    """Returns what to add to a script that ended well and left no record in its folder."""
    name = command.record or RECORDS[-1]
    others = "" if command.record else f", nor {' nor '.join(RECORDS[:-1])} there"
    line = f'json.dump({{"num_tokens": num_tokens, "loss": loss}}, open(f"{{out}}/{name}", "w"))'
    if name.endswith(".csv"):
        line = f'open(f"{{out}}/{name}", "w").write(f"num_tokens,loss\\n{{num_tokens}},{{loss}}\\n")'
    return (
        f"the command ended well and wrote no {folder / name}{others}. Add a line to the end of the script, where out "
        f"is what {{folder}} gave it: {line}"
    )


def read_rows(command: Command, path: Path, tokens_per_step: int) -> CommandRows:
    """Returns what stands in the record of a program.

    Args:
      command: of the trunk.
      path: of the record.
      tokens_per_step: of the trunk, where the record counts steps.

    Raises:
      ValueError: it is no table, or has no loss.
    """
    mapping = pairs(command.columns, "columns")
    rows = _measured(read_file(path), mapping.get("loss", "loss"), path)
    table = read_table(rows, mapping, source=str(path), option='Command(columns="{}")')
    loss, step = table["loss"], "step" if "step" in table else "num_steps"
    num_tokens = table["num_tokens"] if "num_tokens" in table else None
    if num_tokens is None and step in table:
        num_tokens = table[step] * tokens_per_step
    bad = np.flatnonzero(~np.isfinite(loss))
    return CommandRows(table, loss, num_tokens, int(bad[0]) if len(bad) else None)


def _measured(columns: Mapping[str, Sequence[Any]], loss: str, path: Path) -> Mapping[str, Sequence[Any]]:
    """Returns the rows that hold a loss: a log may measure it now and then only."""
    if loss not in columns:
        return columns
    rows = [i for i, value in enumerate(columns[loss]) if value is not None and str(value).strip()]
    if not rows:
        raise ValueError(f"{path} holds no {loss}")
    return {name: [values[i] for i in rows] for name, values in columns.items()}


def point_records(cell: TrunkCell, rows: CommandRows, asked: Sequence[int], seconds: float) -> dict[int, RunRecord]:
    """Returns the records of the points that rows hold, by token count: all that are asked for, unless it diverged.

    Args:
      cell: the trunk.
      rows: of its program.
      asked: token counts of the trunk.
      seconds: that the program took.

    Raises:
      ValueError: a point has no row though nothing diverged, or a row says other than the plan.
    """
    records = {}
    for num_tokens in asked:
        planned = cell.planned[num_tokens]
        row = _row_at(rows, planned.num_tokens, is_alone=len(cell.planned) == 1)
        if row is None and rows.ends_at is None:
            raise ValueError(_no_row(rows, planned.num_tokens, cell.config.tokens_per_step))
        if row is None:
            continue
        _compare(rows.table, row, planned)
        if rows.ends_at is None or row < rows.ends_at:
            records[num_tokens] = _record(rows, row, planned, cell.planned[max(cell.planned)].num_tokens, seconds)
    return records


def _row_at(rows: CommandRows, num_tokens: int, is_alone: bool) -> int | None:
    """Returns the last row that was measured at so many tokens; the only one, where it need not say."""
    if rows.num_tokens is None:
        return 0 if is_alone and len(rows.loss) == 1 else None
    at = np.flatnonzero(np.isclose(rows.num_tokens, num_tokens, rtol=1e-9))
    return int(at[-1]) if len(at) else None


def _no_row(rows: CommandRows, num_tokens: int, tokens_per_step: int) -> str:
    asked = f"the command's record has no loss at {num_tokens:,} tokens"
    if rows.num_tokens is None:
        return f"{asked}: it has {len(rows.loss)} rows, which say neither num_tokens nor step"
    nearest = rows.num_tokens[np.nanargmin(np.abs(rows.num_tokens - num_tokens))]
    if nearest * tokens_per_step == num_tokens:
        return (
            f"{asked}, the nearest is at {nearest:,.0f}, which is the number of steps: call that column step, or "
            f"multiply it by the {tokens_per_step:,} tokens of a step"
        )
    return (
        f"{asked}, the nearest is at {nearest:,.0f}: it must train on {{num_tokens}}, a multiple of the trunk's "
        f"batch_size x seq_len = {tokens_per_step:,}"
    )


def _compare(table: RunTable, row: int, planned: RunRecord) -> None:
    for name, expected in planned.to_json().items():
        if name not in table.columns or isinstance(expected, str) or expected is None:
            continue
        given = table.columns[name][row]
        if not math.isnan(given) and not math.isclose(given, expected, rel_tol=1e-6):
            hint = f"; if that is right, set Command({name}={given:.0f})" if name.startswith("num_params") else ""
            raise ValueError(f"the command's record says {name} {given:,.12g}, the plan {expected:,.12g}{hint}")


def _record(rows: CommandRows, row: int, planned: RunRecord, longest: int, seconds: float) -> RunRecord:
    taken: dict[str, Any] = {name: float(rows.table[name][row]) for name in TAKEN if name in rows.table}
    taken = {name: value for name, value in taken.items() if math.isfinite(value)}
    if "num_unique_tokens" in taken:
        taken["num_unique_tokens"] = int(taken["num_unique_tokens"])
    return replace(
        planned,
        status="done",
        loss=float(rows.loss[row]),
        wall_seconds=round(seconds, 3),
        tokens_per_second=round(longest / max(seconds, 1e-3), 1),
        code_version=versions()["code_version"],
        device="command",
        **taken,
    )
