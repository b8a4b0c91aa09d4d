"""What the pages of TensorBoard and of Weights & Biases export of a curve, read as the runs that it is of."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kleiber.experiments.importing.logged import LoggedRun, Value

STEPS = ("step", "_step", "Step", "global_step", "iter", "iteration", "trainer/global_step")
SCALAR = ("Wall time", "Step", "Value")
"""The columns of a scalar that TensorBoard exports, in a file called run-RUN-tag-TAG.csv unless it was renamed."""
Columns = Mapping[str, Sequence[Any]]


def is_scalar(columns: Columns) -> bool:
    """Returns whether a table is one scalar of one run as TensorBoard exports it."""
    return tuple(columns) == SCALAR


def scalar_runs(tables: Mapping[Path, Columns], root: Path) -> list[LoggedRun]:
    """Returns the runs of exported scalars: those of one run together, by steps; a renamed file is a run of `Value`."""
    runs: dict[str, dict[Any, dict[str, Value]]] = {}
    sources: dict[str, Path] = {}
    for path, columns in tables.items():
        named = re.fullmatch(r"run-(.+)-tag-(.+)", path.stem)
        name, tag = named.groups() if named else (path.relative_to(root).with_suffix("").as_posix(), "Value")
        rows = runs.setdefault(name, {})
        sources.setdefault(name, path)
        for step, value in zip(columns["Step"], columns["Value"], strict=True):
            rows.setdefault(step, {"step": step})[tag] = value
    return [LoggedRun(name, sources[name], {}, _by_step(rows)) for name, rows in runs.items()]


def _by_step(rows: Mapping[Any, dict[str, Value]]) -> list[dict[str, Value]]:
    return [rows[step] for step in sorted(rows, key=float)]


def chart_runs(columns: Columns, path: Path) -> list[LoggedRun]:
    """Returns the runs of a chart that W&B exported: a column `RUN - METRIC` each, with __MIN and __MAX beside it."""
    step = next((name for name in STEPS if name in columns), "")
    runs: dict[str, list[dict[str, Value]]] = {}
    for column in columns if step else ():
        if f"{column}__MIN" in columns and re.fullmatch(r".+ - .+", column):
            name, _, metric = column.rpartition(" - ")
            rows = runs.setdefault(name, [{"step": at} for at in columns[step]])
            for row, value in zip(rows, columns[column], strict=True):
                row[metric] = value

    def was_logged(row: dict[str, Value]) -> bool:
        return any(value not in (None, "") for name, value in row.items() if name != "step")

    return [LoggedRun(name, path / name, {}, list(filter(was_logged, rows))) for name, rows in runs.items()]
