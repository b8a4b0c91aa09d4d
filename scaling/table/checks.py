"""What is checked of a table before a law is fitted to it; each finding is a named error or a typed warning."""

import re
import warnings
from collections.abc import Sequence

import numpy as np

from kleiber.scaling.table.expression import as_word
from kleiber.scaling.table.table import RunTable
from kleiber.scaling.table.warned import (
    BelowFloorError,
    BelowFloorWarning,
    ConstantRatioWarning,
    DuplicateRowsWarning,
    MixedTokenizersError,
    NotANumberError,
    NotPositiveError,
    OneSizeError,
    RowsLeftOutWarning,
    RunsAwayWarning,
    SharedTrunkWarning,
    TableError,
    TooFewPointsError,
    UnitWarning,
    UnknownValuesWarning,
)

CHOSEN = {
    "status": (
        ("done", "finished", "completed", "complete", "success", "succeeded", "successful", "ok"),
        "failed diverged pruned pending continued crashed killed running canceled cancelled error preempted timeout "
        "queued",
    ),
    "split": (("fit", "train", "training"), "target pilot"),
}
"""Columns that choose rows: values of the rows to fit, the first of them ours, and values that say a row is none."""
SPELLINGS = {"status": ("status", "state", "runstatus", "runstate", "jobstatus", "jobstate"), "split": ("split",)}
"""What such a column may be called, as `_plain` writes it."""
TOKENIZERS = ("vocabsize", "tokenizer", "tokeniser", "vocab", "vocabulary", "vocabularysize", "tokenizername")
RUNS = ("run", "runid", "runname", "name", "id", "trunk", "trunkid", "experiment", "experimentid", "experimentname")
"""What a column of names of runs may be called, as `_plain` writes it."""
COMPARABLE = ("byte", "bpb", "normal")
"""Parts of the name of a loss that compares across tokenisers: per byte, or normalised by the unigram's."""
SMALLEST_COUNT = 1e4
"""A column of parameters or tokens without a larger value is probably in millions or billions."""


def usable_rows(
    table: RunTable,
    variables: Sequence[str],
    may_be_zero: Sequence[str] = (),
    residuals: str = "log",
    weights: str | None = None,
) -> RunTable:
    """Returns the rows a law is fitted to: finished, of the fitting split, unique, with sound numbers.

    Args:
      table: runs with a column `loss` (nats per token) and each of the variables.
      variables: columns the law needs; all must be positive.
      may_be_zero: those of them where zero is sound too.
      residuals: how losses are compared: "raw" ones may be negative, those for "logit" lie between 0 and 1.
      weights: column of standard errors of the losses, if they have any.

    Raises:
      TableError: its subclasses name what is wrong with which rows.
    """
    for name, spellings in SPELLINGS.items():
        for theirs in table.names:
            table = _chosen_rows(table, name, theirs) if _plain(theirs) in spellings else table
    needed = ("loss", *variables, *([weights] if weights else []))
    table = table.need(needed)
    _check_numbers(table, needed, may_be_zero, residuals)
    if not any(word in table.mapping.get("loss", "") for word in COMPARABLE):
        for name in table.names:
            if _plain(name) in TOKENIZERS:
                _check_one_kind(table, name)
    _check_units(table, variables)
    table = _without_duplicates(table)
    _check_copies(table, variables)
    return table


def _plain(name: str) -> str:
    """Returns a name in small letters and nothing else: "Run ID" and run_id are runid."""
    return re.sub(r"[\W_]", "", name.lower())


def _chosen_rows(table: RunTable, kind: str, name: str) -> RunTable:
    """Returns the rows that a column of names chooses; `kind` says what it is, whatever its spelling."""
    if name not in table.labels:
        return table
    wanted, refused = CHOSEN[kind]
    values = np.char.lower(np.char.strip(table.labels[name]))
    rows = np.isin(values, wanted)
    if not rows.any():
        found = ", ".join(sorted(set(table.labels[name]))[:6])
        if set(values) <= set(refused.split()):
            raise TableError(f"{table.source}: no row has {name} {wanted[0]!r} (found: {found}).")
        message = (
            f"column {name!r} says neither {wanted[0]!r} nor {refused.split()[0]!r} (found: {found}); all rows are"
        )
        warnings.warn(f"{table.source}: {message} used.", UnknownValuesWarning, stacklevel=4)
        return table
    words = " or ".join(f"{each!r}" for each in wanted if each in values)
    if rows.all():
        return table
    told = f"{int((~rows).sum())} rows without {name} {words} left out"
    if name != kind:  # a guess from how the column is called; `status` and `split` are kleiber's own
        warnings.warn(f"{table.source}: {told}.", RowsLeftOutWarning, stacklevel=4)
    return table.where(rows, told)


def _check_one_kind(table: RunTable, name: str) -> None:
    kinds = sorted(set(table.label(name))) if name in table else []
    if len(kinds) > 1:
        one = kinds[0] if name in table.columns else f'"{kinds[0]}"'
        raise MixedTokenizersError(
            f"{table.source}: column {name!r} holds {', '.join(kinds[:5])}; losses per token of different tokenisers "
            f"cannot be compared. Fit one at a time, as with {table.drop_too(f'{name} != {one}')}, or fit losses per "
            "byte, as with --columns loss=bits_per_byte."
        )


def _check_numbers(table: RunTable, names: Sequence[str], may_be_zero: Sequence[str], residuals: str) -> None:
    """Raises for the first column with unsound numbers, saying how to leave out all rows that have any."""
    drops: list[str] = []
    bad = np.zeros(len(table), dtype=bool)
    mistakes: list[TableError] = []
    for name in names:
        values, zero_too = table[name], name in may_be_zero
        lost = np.flatnonzero(~np.isfinite(values))
        low = np.flatnonzero((values < 0 if zero_too else values <= 0) & (name != "loss" or residuals != "raw"))
        high = np.flatnonzero((values >= 1) & (name == "loss" and residuals == "logit"))
        bad[np.concatenate([lost, low, high])] = True
        if lost.size:
            drops += [f"missing({name})"] * bool(np.isnan(values).any())
            drops += [f"{name} > 1e300"] * bool(np.isposinf(values).any())
            rows = f"{lost.size} row{'s' * (lost.size > 1)} (first: row {lost[0] + 1} of those used)"
            mistakes.append(NotANumberError(f"column {name!r} is missing or not finite in {rows}"))
        if low.size:
            drops.append(f"{name} {'<' if zero_too else '<='} 0")
            text = f"must be {'at least 0' if zero_too else 'positive'}, but row {low[0] + 1} of those used has"
            rows = f"{values[low[0]]:g} ({low.size} such row{'s' * (low.size > 1)})"
            mistakes.append(NotPositiveError(f"column {name!r} {text} {rows}"))
        if high.size:
            drops.append(f"{name} >= 1")
            mistakes.append(
                NotPositiveError(f"logit residuals need {name!r} between 0 and 1; {high.size} rows are not")
            )
    if mistakes:
        advice = f"Leave out all such rows with {table.drop_too(' or '.join(drops))}."
        if bad.all():
            advice = "That is every row: map another column with --columns, or a formula that mends it."
        if residuals != "raw" and (table["loss"] <= 0).any():
            fix = "If losses may be negative, compare differences with --residuals raw, or add a constant to them."
            advice = fix if (table["loss"] <= 0).all() else f"{advice} {fix}"
        raise type(mistakes[0])(f"{table.source}: {'; '.join(map(str, mistakes))}. {advice}")


def _check_units(table: RunTable, variables: Sequence[str]) -> None:
    for name in ("num_params_total", "num_tokens", "num_unique_tokens"):
        if name in variables and table[name].max() < SMALLEST_COUNT:
            theirs, few = table.mapping.get(name, name), table[name]
            what, unit = "it is in billions", "1e9"
            if (few % 1).any() and np.allclose(few * 1e3, np.round(few * 1e3), rtol=1e-12) and few.min() >= 1:
                what, unit = "its dots stand between thousands", "1e3"
            warnings.warn(
                f"{table.source}: {name} is {few.min():.5g} to {few.max():.5g}, few for a count. If {what}, map it "
                f"with --columns '{name}={as_word(theirs)}*{unit}'; FLOPs and forecasts need plain counts.",
                UnitWarning,
                stacklevel=4,
            )


def _without_duplicates(table: RunTable) -> RunTable:
    # The loss first: where no two are equal, as in most tables, no row can repeat another.
    if any(len(np.unique(values)) == len(table) for values in (table["loss"], *table.labels.values())):
        return table
    keys = list(zip(*[values.tolist() for values in {**table.columns, **table.labels}.values()], strict=True))
    keys = [tuple("nan" if value != value else value for value in key) for key in keys]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    rows = np.zeros(len(keys), dtype=bool)
    rows[list(first.values())] = True
    if rows.all():
        return table
    count = int((~rows).sum())
    note = f"{count} row{'s' * (count > 1)} that repeat{'s' * (count == 1)} an earlier row in every column left out"
    warnings.warn(f"{table.source}: {note}.", DuplicateRowsWarning, stacklevel=4)
    return table.where(rows, note)


def _check_copies(table: RunTable, variables: Sequence[str]) -> None:
    """Warns of rows that agree in the loss to its last digit, beyond three decimals, but not in every column."""
    fine = np.abs(table["loss"] * 1e3 - np.round(table["loss"] * 1e3)) > 1e-6
    rows = np.stack([table[name] for name in ("loss", *variables)], axis=1)[fine]
    copies = len(rows) - len(np.unique(rows, axis=0))
    if copies:
        warnings.warn(
            f"{table.source}: {copies} rows have the very loss and counts of another row, though not every column is "
            "equal; each is counted. If they are copies, leave them out with --drop.",
            DuplicateRowsWarning,
            stacklevel=4,
        )


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
            "Add runs, fix parameters (--fix), or choose a law with fewer."
        )
    for name in variables:
        if np.ptp(table[name]) <= 1e-9 * np.abs(table[name]).max():
            raise OneSizeError(
                f"{table.source}: every run has {name} = {table[name][0]:g}, so the law's dependence on it cannot be "
                "seen. Add runs with other values or choose a law without it (power_law has one; kleiber laws)."
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


def check_fixed_floor(table: RunTable, floor: float | str) -> None:
    """Raises if losses lie below a floor that is held fixed.

    Raises:
      BelowFloorError: naming how many and the lowest.
    """
    below = table["loss"] < (-np.inf if isinstance(floor, str) else floor)
    if below.any():
        raise BelowFloorError(
            f"{table.source}: E is fixed at {floor:g}, but {int(below.sum())} losses lie below it (lowest "
            f"{table['loss'].min():g}). Fix a lower E, or leave it free."
        )


def warn_below_floor(source: str, loss: np.ndarray, floor: float) -> None:
    """Warns of losses [runs] below the floor that was fitted."""
    below = np.flatnonzero(loss < floor)
    if below.size:
        warnings.warn(
            f"{source}: {below.size} of the losses below the fitted floor E = {floor:.5g} (lowest "
            f"{loss[below].min():.5g}): outliers, or the law is the wrong one here.",
            BelowFloorWarning,
            stacklevel=4,
        )


def warn_runs_away(source: str, cluster: str) -> None:
    """Warns that what the rows of a cluster share cannot be told from the law."""
    warnings.warn(
        f"{source}: the effects of each {cluster} cannot be told from the law: fitted together they take over, and the "
        f"residuals grow. The constants are those of least squares; only the intervals take in that rows of one "
        f"{cluster} err together.",
        RunsAwayWarning,
        stacklevel=3,
    )


def warn_shared(table: RunTable, variables: Sequence[str]) -> None:
    """Warns of a column of names of runs that repeats while what the law depends on differs."""
    counts = np.stack([table[name] for name in variables], axis=1)
    for name in table.names:
        if _plain(name) not in RUNS or name in variables or name == "loss":
            continue
        _, run = np.unique(table.label(name), return_inverse=True)
        num_runs = int(run.max()) + 1
        if 3 <= num_runs < len(np.unique(np.column_stack([run.ravel(), counts]), axis=0)):
            warnings.warn(
                f"{table.source}: {len(table)} points come from {num_runs} runs (column {name}) but are fitted as "
                f"independent, so intervals are too short; pass --cluster '{name}' (cluster={name!r}).",
                SharedTrunkWarning,
                stacklevel=4,
            )
            return
