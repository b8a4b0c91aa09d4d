"""A table of runs, one row a measured point, checked before any law is fitted to it."""

import csv
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.scaling.expression import select_rows

TEXT_COLUMNS = ("trunk_id", "run_id", "split", "status", "tokenizer", "schedule", "family")
"""Columns that are names even when every value looks like a number."""


class TableError(ValueError):
    """A table that no law can be fitted to, and what to do about it."""


class MissingColumnError(TableError):
    """A column that a law or the user asked for is not in the table."""


class NotANumberError(TableError):
    """A value that should be a number is missing, not finite or a text."""


class NotPositiveError(TableError):
    """A loss or a count is zero or negative."""


class TooFewPointsError(TableError):
    """Fewer points than the law has parameters."""


class OneSizeError(TableError):
    """A variable of the law has the same value in every row, so its exponent cannot be seen."""


class MixedTokenizersError(TableError):
    """Losses per token of different tokenisers are not comparable."""


class TableWarning(UserWarning):
    """Something in the table that makes the result weaker than it looks."""


class DuplicateRowsWarning(TableWarning):
    """Rows that repeat an earlier row in every column were left out."""


class ConstantRatioWarning(TableWarning):
    """Every run has nearly the same tokens per parameter, so exponents cannot be told apart."""


@dataclass(frozen=True)
class RunTable:
    """Columns of equal length, one row a measured point.

    Fields are read-only; `table["loss"]` gives a float64 column or names the nearest one.
    """

    columns: Mapping[str, np.ndarray]
    """float64 [runs] by column name."""
    labels: Mapping[str, np.ndarray]
    """Text [runs] by column name, for columns that are not numbers."""
    source: str = "memory"
    """Where the rows came from, for messages and reports."""
    notes: tuple[str, ...] = ()
    """What was left out on the way, in sentences."""

    def __post_init__(self) -> None:
        arrays = {**self.columns, **self.labels}
        lengths = {name: len(values) for name, values in arrays.items()}
        if not lengths or len(set(lengths.values())) != 1:
            raise TableError(f"{self.source}: columns must have one common length, got {lengths}.")
        for values in arrays.values():
            values.flags.writeable = False

    def __len__(self) -> int:
        return len(next(iter({**self.columns, **self.labels}.values())))

    def __contains__(self, name: str) -> bool:
        return name in self.columns or name in self.labels

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns the float64 column [runs].

        Raises:
          MissingColumnError: naming the nearest column and the option that maps it.
          NotANumberError: if the column holds texts.
        """
        if name in self.columns:
            return self.columns[name]
        if name in self.labels:
            text = next(value for value in self.labels[name] if not _is_number(value))
            raise NotANumberError(
                f"{self.source}: column {name!r} holds the text {str(text)!r} where a number is expected; "
                "mend it or leave the rows out with a drop expression."
            )
        names = [*self.columns, *self.labels]
        near = _nearest(name, names)
        hint = f"The nearest is {near!r}: map it with --columns {name}={near}. " if near else ""
        raise MissingColumnError(
            f"{self.source} has no column {name!r}. {hint}Columns: {', '.join(names)}."
            + ("" if near else f" Map one with --columns {name}=COLUMN.")
        )

    def label(self, name: str) -> np.ndarray:
        """Returns a column as texts [runs], numbers printed shortest, for grouping."""
        if name in self.labels:
            return self.labels[name]
        return np.array([f"{value:.17g}" for value in self[name]])

    def where(self, rows: np.ndarray, note: str = "") -> "RunTable":
        """Returns the table with only the rows of a bool [runs] mask, and the note added."""
        return RunTable(
            {name: values[rows] for name, values in self.columns.items()},
            {name: values[rows] for name, values in self.labels.items()},
            self.source,
            (*self.notes, note) if note else self.notes,
        )


NEAR_NAMES = {
    "loss": ("val_loss", "validation_loss", "final_loss", "eval_loss", "test_loss", "L"),
    "num_params_total": ("params", "num_params", "n_params", "parameters", "n_total", "model_size", "N"),
    "num_tokens": ("tokens", "n_tokens", "train_tokens", "tokens_seen", "D"),
    "num_unique_tokens": ("unique_tokens", "U"),
    "flops": ("compute", "C"),
}
"""Names that other people's tables use for ours; only ever proposed, never taken silently."""


def _nearest(name: str, names: Sequence[str]) -> str | None:
    for usual in NEAR_NAMES.get(name, ()):
        for each in names:
            if each.lower() == usual.lower():
                return each
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return near[0] if near else next((each for each in names if name in each or each in name), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == ""
    return True


def from_columns(data: Mapping[str, Any], source: str = "memory") -> RunTable:
    """Returns a table from columns by name; a column of numbers (empty text is NaN) becomes float64, others text."""
    columns, labels = {}, {}
    for name, values in data.items():
        array = np.asarray(values)
        if name in TEXT_COLUMNS or array.dtype.kind not in "biuf":
            texts = ["" if value is None else _short(value) for value in values]
            if name in TEXT_COLUMNS or not all(_is_number(text) for text in texts) or not any(texts):
                labels[name] = np.array(texts, dtype=str)
            else:
                columns[name] = np.array([float(text) if text else np.nan for text in texts])
        else:
            columns[name] = array.astype(np.float64)
    return RunTable(columns, labels, source)


def _short(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.17g}"
    return str(value).strip()


def read_table(
    path: str | Path | Mapping[str, Any], columns: Mapping[str, str] | None = None, drop: str | None = None
) -> RunTable:
    """Returns the runs of a CSV or Parquet file, or of a mapping from column name to values.

    Args:
      path: file ending in .csv, .tsv or .parquet, or columns by name.
      columns: our column name to the table's, as {"loss": "val_loss"}; other columns keep their names.
      drop: rows satisfying this expression are left out (see expression.py); both kinds of names work in it.

    Raises:
      FileNotFoundError: if there is no such file.
      TableError: for an unknown kind of file, an empty one, or a mapping to a column that is not there.
    """
    table = from_columns(path) if isinstance(path, Mapping) else _read_file(Path(path))
    numbers, labels = dict(table.columns), dict(table.labels)
    for name, given in (columns or {}).items():
        if given in labels:
            labels[name] = labels[given].copy()
            numbers.pop(name, None)
        elif given in numbers:
            numbers[name] = numbers[given].copy()
            labels.pop(name, None)
        else:
            near = _nearest(given, [*numbers, *labels])
            hint = f" Did you mean {near!r}?" if near else ""
            raise MissingColumnError(
                f"{table.source} has no column {given!r} to use as {name!r}.{hint} "
                f"Columns: {', '.join([*table.columns, *table.labels])}."
            )
    table = RunTable(numbers, labels, table.source, table.notes)
    if drop:
        rows = select_rows(drop, {**table.columns, **table.labels})
        table = table.where(~rows, f"{int(rows.sum())} of {len(rows)} rows dropped by {drop!r}")
        if len(table) == 0:
            raise TableError(f"{table.source}: the expression {drop!r} drops every row.")
    return table


def _read_file(path: Path) -> RunTable:
    if not path.is_file():
        raise FileNotFoundError(f"there is no table at {path}.")
    if path.suffix in (".csv", ".tsv"):
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
            header, *rows = [row for row in reader if row] or [[]]
        ragged = next((index for index, row in enumerate(rows) if len(row) != len(header)), None)
        if ragged is not None:
            raise TableError(f"{path}: row {ragged + 2} has {len(rows[ragged])} fields, the header {len(header)}.")
        data: Mapping[str, Any] = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    elif path.suffix in (".parquet", ".pq"):
        import pyarrow.parquet

        data = pyarrow.parquet.read_table(path).to_pydict()
    else:
        raise TableError(f"{path}: expected a .csv, .tsv or .parquet file.")
    if not data or not len(next(iter(data.values()))):
        raise TableError(f"{path} holds no rows.")
    return from_columns(data, str(path))
