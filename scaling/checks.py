"""What is checked of a table before a law is fitted to it; each finding is a named error or a typed warning."""

import warnings
from collections.abc import Sequence

import numpy as np

from kleiber.scaling.table import (
    ConstantRatioWarning,
    DuplicateRowsWarning,
    MixedTokenizersError,
    NotANumberError,
    NotPositiveError,
    OneSizeError,
    RunTable,
    TableError,
    TooFewPointsError,
)


def usable_rows(table: RunTable, variables: Sequence[str], may_be_zero: Sequence[str] = ()) -> RunTable:
    """Returns the rows a law is fitted to: finished, of the fitting split, unique, with sound numbers.

    Args:
      table: runs with a column `loss` (nats per token) and each of the variables.
      variables: columns the law needs; all must be positive.
      may_be_zero: those of them where zero is sound too.

    Raises:
      TableError: its subclasses name what is wrong with which rows.
    """
    for name, wanted in (("status", "done"), ("split", "fit")):
        if name in table.labels:
            rows = table.labels[name] == wanted
            if not rows.any():
                found = ", ".join(sorted(set(table.labels[name])))
                raise TableError(f"{table.source}: no row has {name} {wanted!r} (found: {found}).")
            if not rows.all():
                table = table.where(rows, f"{int((~rows).sum())} rows without {name} {wanted!r} left out")
    for name in ("loss", *variables):
        _check_column(table, name, name in may_be_zero)
    for name in ("vocab_size", "tokenizer"):
        kinds = set(table.label(name)) if name in table else set()
        if len(kinds) > 1:
            raise MixedTokenizersError(
                f"{table.source}: column {name!r} holds {', '.join(sorted(kinds)[:5])}; losses per token of different "
                "tokenisers cannot be compared. Fit one at a time with a drop expression, or map loss=bits_per_byte "
                f"and leave {name!r} out of the table."
            )
    return _without_duplicates(table)


def _check_column(table: RunTable, name: str, may_be_zero: bool = False) -> None:
    values = table[name]
    lost = np.flatnonzero(~np.isfinite(values))
    if lost.size:
        raise NotANumberError(
            f"{table.source}: column {name!r} is missing or not finite in {lost.size} rows (first: row {lost[0] + 1} "
            f"after the header). Leave them out with a drop expression, for instance --drop '{name} != {name}'."
        )
    low = np.flatnonzero(values < 0 if may_be_zero else values <= 0)
    if low.size:
        raise NotPositiveError(
            f"{table.source}: column {name!r} must be positive, but row {low[0] + 1} after the header has "
            f"{values[low[0]]:g} ({low.size} such rows). Leave them out with --drop '{name} <= 0'."
        )


def _without_duplicates(table: RunTable) -> RunTable:
    keys = list(zip(*[values.tolist() for values in {**table.columns, **table.labels}.values()], strict=True))
    keys = [tuple("nan" if value != value else value for value in key) for key in keys]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    rows = np.zeros(len(keys), dtype=bool)
    rows[list(first.values())] = True
    if rows.all():
        return table
    note = f"{int((~rows).sum())} rows that repeat an earlier row in every column left out"
    warnings.warn(f"{table.source}: {note}.", DuplicateRowsWarning, stacklevel=4)
    return table.where(rows, note)


def check_design(table: RunTable, variables: Sequence[str], num_free: int) -> None:
    """Raises if the rows cannot carry `num_free` parameters; warns if tokens per parameter hardly vary.

    Raises:
      TooFewPointsError: fewer points than parameters.
      OneSizeError: one of the variables never changes.
    """
    if len(table) <= num_free:
        raise TooFewPointsError(
            f"{table.source}: {len(table)} usable points for a law with {num_free} free parameters; at least "
            f"{num_free + 1} are needed to fit it and about {3 * num_free + 9} for useful intervals. "
            "Add runs, fix parameters, or choose a law with fewer."
        )
    for name in variables:
        if np.ptp(table[name]) <= 1e-9 * np.abs(table[name]).max():
            raise OneSizeError(
                f"{table.source}: every run has {name} = {table[name][0]:g}, so the law's dependence on it cannot be "
                "seen. Add runs with other values or choose a law without it (kleiber laws)."
            )
    if {"num_params_total", "num_tokens"} <= set(variables):
        ratio = table["num_tokens"] / table["num_params_total"]
        if ratio.max() < 1.1 * ratio.min():
            warnings.warn(
                f"{table.source}: every run has about {np.median(ratio):.3g} tokens per parameter, so the exponents "
                "of parameters and tokens cannot be told apart; they are withheld.",
                ConstantRatioWarning,
                stacklevel=3,
            )
