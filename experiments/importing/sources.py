"""What a path holds: runs of one of five kinds of logger, told by the names of the files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kleiber.experiments.importing.event_files import MARK, event_run
from kleiber.experiments.importing.exported import STEPS, chart_runs, is_scalar, scalar_runs
from kleiber.experiments.importing.logged import ImportProblem, LoggedRun, Value
from kleiber.experiments.importing.run_folders import HISTORY, SUMMARY, mlflow_run, wandb_run
from kleiber.experiments.importing.wandb_log import wandb_log_run
from kleiber.scaling.table.reading import read_file

Kind = Literal["tensorboard", "wandb", "mlflow", "logs", "table"]
"""`logs` are files of one run each, a row a step; a `table` has a row a run."""
WANDB, MLFLOW = ".wandb", "meta.yaml"
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
RUNS = ("run_id", "run", "Name", "run_name", "name")
"""Columns of other people's tables that hold the name of a run, the first that is there."""


def read_runs(path: Path, kind: Kind | None = None, takes_cut: bool = False) -> tuple[Kind, list[LoggedRun]]:
    """Returns the kind of what lies at a path, and its runs.

    Args:
      path: a file or folder.
      kind: to read it as; None is told by the names and columns of files.
      takes_cut: whether a log may end in the middle of a record.

    Raises:
      FileNotFoundError: there is nothing.
      ImportProblem: nothing that can be read, files of several kinds, or one that is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path}.")
    files = sorted(place for place in path.rglob("*") if place.is_file()) if path.is_dir() else [path]
    loggers: dict[Kind, list[Path]] = {
        "tensorboard": [place for place in files if MARK in place.name],
        "wandb": [place for place in files if place.suffix == WANDB or place.name in (HISTORY, SUMMARY)],
        "mlflow": [place for place in files if place.name == MLFLOW and (place.parent / "metrics").is_dir()],
    }
    there = [each for each, places in loggers.items() if places]
    if kind is None and len(there) > 1:
        raise ImportProblem(f"{path} holds runs of {' and '.join(there)}; say which to read: --kind {there[0]}")
    tables = [place for place in files if _is_table(place)]
    kind = kind or (there[0] if there else "table" if path.is_file() else "logs")
    places = loggers.get(kind, tables)
    if not places:
        raise ImportProblem(
            f"{path} holds no {kind}: expected event files ({MARK}), folders of W&B (run-ID{WANDB}, {SUMMARY}) or "
            f"MLflow (params/, metrics/), or tables ({', '.join(TABLES)})."
        )
    root = path if path.is_dir() else path.parent
    if kind == "tensorboard":
        homes: dict[Path, list[Path]] = {}
        for place in places:
            homes.setdefault(place.parent, []).append(place)
        return kind, [event_run(_named(home, root), own, takes_cut) for home, own in homes.items()]
    if kind == "wandb":
        return kind, list(_wandb_runs(places, takes_cut))
    if kind == "mlflow":
        return kind, [mlflow_run(place.parent) for place in places]
    if kind == "logs":
        return kind, _logs({place: read_file(place) for place in places}, root)
    columns = read_file(path)
    if is_scalar(columns):
        return "logs", scalar_runs({path: columns}, root)
    if curves := chart_runs(columns, path):
        return "logs", curves
    return ("logs", [_log(path, root, columns)]) if _is_log(columns) else (kind, _rows(columns, path))


def _wandb_runs(places: list[Path], takes_cut: bool) -> Iterator[LoggedRun]:
    """Yields the run of each folder of W&B, from its log where that is there: it holds the most."""
    logs = [place for place in places if place.suffix == WANDB]
    yield from (wandb_log_run(path, takes_cut) for path in logs)
    homes = {path.parent for path in logs}
    folders = dict.fromkeys(place.parent for place in places if place.suffix != WANDB)
    yield from (wandb_run(folder) for folder in folders if not {folder, folder.parent} & homes)


def _is_table(path: Path) -> bool:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower() in TABLES


def _named(folder: Path, root: Path) -> str:
    inside = folder.relative_to(root).as_posix()
    return root.absolute().name if inside == "." else inside


def _is_log(columns: Mapping[str, Sequence[Any]]) -> bool:
    """Returns whether a table is the log of one run: its steps increase, and nothing names runs."""
    step = next((name for name in STEPS if name in columns), "")
    if not step or any(name in columns for name in RUNS):
        return False
    try:
        steps = [float(value) for value in columns[step]]
    except (TypeError, ValueError):
        return False
    return len(steps) > 1 and all(a < b for a, b in zip(steps, steps[1:], strict=False))


def _logs(tables: Mapping[Path, Mapping[str, Sequence[Any]]], root: Path) -> list[LoggedRun]:
    """Returns the runs of a folder of logs, one a file but for the scalars that TensorBoard exports."""
    scalars = {path: columns for path, columns in tables.items() if is_scalar(columns)}
    others = [_log(path, root, columns) for path, columns in tables.items() if path not in scalars]
    return [*others, *scalar_runs(scalars, root)]


def _log(path: Path, root: Path, columns: Mapping[str, Sequence[Any]]) -> LoggedRun:
    return LoggedRun(path.relative_to(root).with_suffix("").as_posix(), path, {}, _by_row(columns))


def _rows(columns: Mapping[str, Sequence[Any]], path: Path) -> list[LoggedRun]:
    """Returns the runs of a table with a row a run; without a column of names they are called by their numbers."""
    named = next((name for name in RUNS if name in columns), "")
    runs = []
    for number, values in enumerate(_by_row(columns), 1):
        name = str(values.pop(named)) if named else f"row {number}"
        runs.append(LoggedRun(name, path / f"row {number}", values))
    return runs


def _by_row(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Value]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
