"""A run as some logger left it, and the table that several make."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Value = float | int | str | bool | None
NAME = "run_id"
"""The column of our table that holds the names of runs."""


class ImportProblem(ValueError):
    """What lies there is damaged, or cannot be told apart."""


@dataclass(frozen=True)
class LoggedRun:
    """One run: what it was, and what it measured as it went."""

    name: str
    source: Path
    """File or folder that it was read from."""
    config: dict[str, Value] = field(default_factory=dict)
    """Its settings, and what was summed up at its end."""
    rows: Sequence[dict[str, Value]] = ()
    """What was logged together, in its order."""

    def last(self) -> dict[str, Value]:
        """Returns its settings and the last value of everything that it logged."""
        values = dict(self.config)
        for row in self.rows:
            values |= {name: value for name, value in row.items() if value is not None and value != ""}
        return values

    def every(self, loss: str) -> list[dict[str, Value]]:
        """Returns its settings beside each row that holds the column `loss`, filled with what was logged before."""
        values, found = dict(self.config), []
        for row in self.rows:
            there = {name: value for name, value in row.items() if value is not None and value != ""}
            values |= there
            if loss in there:
                found.append(dict(values))
        return found


def table_of(runs: Iterable[LoggedRun], every: str = "", by_folder: bool = False) -> dict[str, list[Value]]:
    """Returns the columns of a table: a row a run, with its name, settings and last values.

    Args:
      runs: to put into it.
      every: a column; then a row for every time that it was logged.
      by_folder: whether runs are called after where they lie.

    Raises:
      ImportProblem: there are none, two have one name, or `every` was never logged.
    """
    rows: list[dict[str, Value]] = []
    sources: dict[str, Path] = {}
    for run in runs:
        name = str(run.source) if by_folder else run.name
        if name in sources:
            raise ImportProblem(
                f"two runs are called {name!r}: {sources[name]} and {run.source}. Rename or remove one, or call runs "
                "after where they lie: --by-folder"
            )
        sources[name] = run.source
        own = run.every(every) if every else [run.last()]
        rows += [{NAME: name, **{key: value for key, value in row.items() if key != NAME}} for row in own]
    if not sources:
        raise ImportProblem("no runs were found.")
    if not rows:
        raise ImportProblem(f"no run has logged {every!r}, of which --every asks for each value.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def joined(columns: dict[str, list[Value]], more: Mapping[str, Sequence[Value]], path: Path) -> dict[str, list[Value]]:
    """Returns a table with the columns of another beside it, by the names of runs; runs that it lacks have none.

    Args:
      columns: as `table_of` gives them.
      more: with a row a run and its name in run_id.
      path: of that.

    Raises:
      ImportProblem: it names no runs, one twice or one that is not there, or has a column that is there already.
    """
    names, others = list(map(str, more.get(NAME, ()))), [name for name in more if name != NAME]
    if not names or not others:
        raise ImportProblem(f"{path} has the columns {', '.join(more)}: expected {NAME} and what to add to each run.")
    known = set(map(str, columns[NAME]))
    for name in names:
        if name not in known or names.count(name) > 1:
            there = ", ".join(sorted(known)[:6])
            what = "stands there twice" if name in known else f"was not logged; there are {there}"
            raise ImportProblem(f"{path}: the run {name!r} {what}.")
    if twice := [name for name in others if name in columns]:
        raise ImportProblem(f"{path}: the runs have a column {twice[0]!r} already; rename one of the two.")
    row = {name: index for index, name in enumerate(names)}
    at = [row.get(str(name)) for name in columns[NAME]]
    return {**columns, **{name: [None if i is None else more[name][i] for i in at] for name in others}}


def cut_short(path: Path, count: int, at: int, size: int, is_taken: bool) -> None:
    """Ends the reading of a log in the middle, where that is taken; else says where it breaks off.

    Args:
      path: of the log.
      count: whole records before that.
      at: the byte where the next should begin.
      size: of the file.
      is_taken: whether the whole records are enough.

    Raises:
      ImportProblem: they are not.
    """
    if not is_taken:
        raise ImportProblem(
            f"{path} is cut or damaged after {count} whole records (byte {at:,} of {size:,}); --takes-cut takes what "
            "stands before that, as of a run that was killed."
        )


def flat(data: Any, prefix: str = "") -> dict[str, Value]:
    """Returns the plain values of nested settings, by names joined by dots; lists and texts of lines are left out."""
    found: dict[str, Value] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float | bool) and "\n" not in str(value):
            found[f"{prefix}{name}"] = value
    return found


def plain(text: str) -> Value:
    """Returns a text as the number that it is, if it is one."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if math.isfinite(number) and number == int(number) and text.lstrip("-").isdigit() else number
