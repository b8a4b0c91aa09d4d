"""A table of runs, one row a measured point, checked before any law is fitted to it."""

import contextlib
import difflib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.scaling.table.expression import (
    MISSING,
    ExpressionError,
    as_word,
    compute_column,
    select_rows,
    values_not_there,
)
from kleiber.scaling.table.naming import nearest, only_count, propose_mapping
from kleiber.scaling.table.reading import arrow_columns, as_numbers, read_file
from kleiber.scaling.table.warned import (
    MissingColumnError,
    NotANumberError,
    NothingDroppedWarning,
    NothingLeftError,
    TableError,
)

TEXT_COLUMNS = ("trunk_id", "run_id", "split", "status", "tokenizer", "schedule", "family")
"""Columns that are names even when every value looks like a number."""


COLUMNS = "--columns {}"
"""The option of `kleiber fit` that maps our names to those of a table."""


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
    mapping: Mapping[str, str] = field(default_factory=dict)
    """Our names that were mapped, to what."""
    dropped: str = ""
    """The expression whose rows were left out."""
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    """int [runs], where each stood in the source, counted from 1 after the header."""
    option: str = COLUMNS
    """What maps one of our names to a column where the table was asked for, with {} for the mapping."""

    def __post_init__(self) -> None:
        arrays = {**self.columns, **self.labels}
        lengths = {name: len(values) for name, values in arrays.items()}
        if not lengths or len(set(lengths.values())) != 1:
            raise TableError(f"{self.source}: columns must have one common length, got {lengths}.")
        for values in arrays.values():
            values.flags.writeable = False
        if not len(self.rows):
            object.__setattr__(self, "rows", np.arange(1, len(self) + 1))

    def __len__(self) -> int:
        return len(next(iter({**self.columns, **self.labels}.values())))

    def __contains__(self, name: str) -> bool:
        return name in self.columns or name in self.labels

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns the float64 column [runs]; texts such as 1,300 or 7B are read as numbers, with a warning.

        Raises:
          MissingColumnError: naming the nearest column and the option that maps it.
          NotANumberError: if the column holds texts.
        """
        if name in self.columns:
            return self.columns[name]
        if name in self.labels:
            return self._numbers(name)
        near = nearest(name, self.names)
        hint = f"The nearest is {near!r}: map it with {self.option.format(f'{name}={near}')}. " if near else ""
        raise MissingColumnError(
            f"{self.source} has no column {name!r}. {hint}Columns: {', '.join(self.names)}."
            + ("" if near else f" Map one with {self.option.format(f'{name}=COLUMN')}.")
        )

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        return [*self.columns, *self.labels]

    def _numbers(self, name: str) -> np.ndarray:
        texts = self.labels[name].tolist()
        found = as_numbers(name, texts, self.source)
        if found is not None:
            return found
        odd = [(row, text) for row, text in enumerate(texts) if not _is_number(text) and text.lower() not in MISSING]
        where = f"holds the text {odd[0][1]!r} (row {odd[0][0] + 1} after the header)" if odd else "is empty"
        theirs = self.mapping.get(name, name)
        advice = ""
        if odd:
            kinds = list(dict.fromkeys(text for _, text in odd))
            drop = " or ".join(f'{name} == "{text}"' for text in kinds[:3])
            drop += f" or missing({name})" * any(text.lower() in MISSING for text in texts)
            leave_out = f"Leave such rows out with {self.drop_too(drop)}, or map" if self.option == COLUMNS else "Map"
            advice = f" {leave_out} another column: {self.option.format(f'{name}=COLUMN')}."
            if all("," in text and "." not in text for text in kinds):
                advice = " A comma may stand for thousands or decimals: write plain numbers."
        what = f"column {name!r}" + (f" (mapped to {theirs!r})" if theirs != name else "")
        raise NotANumberError(f"{self.source}: {what} {where} where numbers are expected.{advice}")

    def drop_too(self, expression: str) -> str:
        """Returns the option that leaves out rows as before and those of an expression too."""
        return f"--drop '{self.dropped} or {expression}'" if self.dropped else f"--drop '{expression}'"

    def need(self, names: Sequence[str]) -> "RunTable":
        """Returns the table with these columns as numbers.

        Raises:
          MissingColumnError: naming all that are missing, with a `--columns` option to paste if names can be guessed.
          NotANumberError: as for one column.
        """
        lost = [name for name in names if name not in self]
        if lost:
            numbers = {name: self.columns.get(name) for name in self.names if name not in self.mapping}
            given = {k: v for k, v in self.mapping.items() if k in names}
            proposal, only = propose_mapping(names, numbers, given), only_count(names, numbers, given)
            advice = f" By their names: {proposal}"
            if not proposal:
                advice = " Say which is which: --columns " + ",".join(f"{name}=COLUMN" for name in lost)
            if only:
                advice += (
                    f". If there is no other count, fit {only} alone: --law power_law --columns num_params_total={only}"
                )
            for ours, theirs in self.mapping.items():
                near = difflib.get_close_matches(ours, lost, n=1, cutoff=0.8)
                advice = f" You mapped {ours}={theirs}: did you mean {near[0]}={theirs}?" if near else advice
            have = ", ".join(name for name in self.names if name not in self.mapping)
            raise MissingColumnError(
                f"{self.source} has no column {', '.join(map(repr, lost))}. It has: {have}.{advice}"
            )
        columns = {**self.columns, **{name: self[name] for name in names}}
        return replace(self, columns=columns, labels={k: v for k, v in self.labels.items() if k not in columns})

    def label(self, name: str) -> np.ndarray:
        """Returns a column as texts [runs], numbers printed shortest, for grouping."""
        if name in self.labels:
            return self.labels[name]
        return np.array([f"{value:.17g}" for value in self[name]])

    def where(self, rows: np.ndarray, note: str = "") -> "RunTable":
        """Returns the table with only the rows of a bool [runs] mask, and the note added."""
        return replace(
            self,
            columns={name: values[rows] for name, values in self.columns.items()},
            labels={name: values[rows] for name, values in self.labels.items()},
            notes=(*self.notes, note) if note else self.notes,
            rows=self.rows[rows],
        )


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
            try:
                texts = list(map(str.strip, values))
            except TypeError:  # not texts alone
                texts = [value.strip() if isinstance(value, str) else _short(value) for value in values]
            if name in TEXT_COLUMNS or not all(_is_number(text) for text in texts) or not any(texts):
                labels[name] = np.array(texts, dtype=str)
            else:
                columns[name] = np.array([float(text) if text else np.nan for text in texts])
        else:
            columns[name] = array.astype(np.float64)
    return RunTable(columns, labels, source)


def _short(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.17g}"
    return str(value).strip()


def read_table(
    path: Any,
    columns: Mapping[str, str] | None = None,
    drop: str | None = None,
    *,
    source: str = "",
    option: str = COLUMNS,
) -> RunTable:
    """Returns the runs of a file, of a mapping from column name to values, or of a DataFrame or Arrow table.

    Args:
      path: file ending in .csv, .tsv, .jsonl, .json or .parquet, a sweep's directory, columns by name, or any table
        that Arrow can read (pandas from 2.2 on, polars, DuckDB).
      columns: our column name to the table's, as {"loss": "val_loss"}, or to a formula of columns, as {"num_tokens":
        "tokens_B * 1e9"}, or to a number that holds for all; other columns keep their names.
      drop: rows satisfying this expression are left out (see expression.py); both kinds of names work in it.
      source: what the table is called in messages; the file, if left out.
      option: what maps a column where this was asked for, with {} for the mapping.

    Raises:
      FileNotFoundError: if there is no such file.
      TableError: for an unknown kind of file or table, an empty one, or a mapping to a column that is not there.
      ExpressionError: for an expression that cannot be read or cannot mean what it says.
    """
    if isinstance(path, Mapping):
        table = from_columns(path)
    elif isinstance(path, str | Path):
        table = from_columns(read_file(Path(path)), str(path))
    else:
        table = from_columns(arrow_columns(path), type(path).__name__)
    table = replace(table, source=source or table.source, option=option)
    table = _mapped(table, columns or {})
    return _without(table, drop) if drop else table


def _mapped(table: RunTable, columns: Mapping[str, str]) -> RunTable:
    numbers, labels = dict(table.columns), dict(table.labels)
    words = {as_word(each): each for each in table.names}
    for name, given in columns.items():
        bare = given.strip().strip("`'\"")
        given = given if given in table else bare if bare in table else words.get(given, given)
        if given in table.labels:
            labels[name] = table.labels[given].copy()
            numbers.pop(name, None)
        else:
            numbers[name] = table.columns[given].copy() if given in table.columns else _computed(table, name, given)
            labels.pop(name, None)
    return replace(table, columns=numbers, labels=labels, mapping=dict(columns))


def _computed(table: RunTable, name: str, formula: str) -> np.ndarray:
    """Returns the column that a formula gives, or a number; what is none of these nor a column is an error."""
    with contextlib.suppress(ValueError):
        return np.full(len(table), float(formula))
    near = nearest(formula, table.names)
    hint = f" Did you mean {near!r}?" if near else ""
    if not any(sign in formula for sign in "+-*/()`"):
        raise MissingColumnError(
            f"{table.source} has no column {formula!r} to use as {name!r}.{hint} Columns: {', '.join(table.names)}."
        )
    named = [each for each in table.labels if re.search(rf"\b{re.escape(as_word(each))}\b", formula)]
    texts = {each: as_numbers(each, table.labels[each].tolist(), table.source) for each in named}
    numbers = {**table.columns, **{each: values for each, values in texts.items() if values is not None}}
    try:
        return compute_column(formula, numbers)
    except ExpressionError as mistake:
        for each in named:
            table[each]  # raises, if it is texts or empty
        raise MissingColumnError(f"{table.source}: cannot use {formula!r} as {name!r}: {mistake}") from None


def _without(table: RunTable, drop: str) -> RunTable:
    """Returns the table without the rows that satisfy an expression; one that leaves out none or all is told."""
    everything = {**table.columns, **table.labels}
    rows = select_rows(drop, everything)
    hints = "".join(f" {each}" for each in values_not_there(drop, everything))
    if rows.all():
        raise NothingLeftError(
            f"{table.source}: --drop {drop!r} leaves out every row.{hints} It says which rows go; to say which stay, "
            f"write --drop 'not ({drop})'."
        )
    if not rows.any():
        message = f"{table.source}: --drop {drop!r} leaves out no row.{hints}"
        warnings.warn(message, NothingDroppedWarning, stacklevel=3)
    return replace(table.where(~rows, f"{int(rows.sum())} of {len(rows)} rows dropped by {drop!r}"), dropped=drop)
