"""Folders that Weights & Biases and MLflow keep of runs, read without either of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kleiber.experiments.importing.logged import ImportProblem, LoggedRun, Value, flat, plain
from kleiber.files import read_json, read_plain

HISTORY, SUMMARY, CONFIG = "wandb-history.jsonl", "wandb-summary.json", "config.yaml"


def wandb_run(folder: Path) -> LoggedRun:
    """Returns the run of an offline folder of W&B: config.yaml, wandb-history.jsonl, wandb-summary.json.

    It has these once it was synced, or of an older release; else `wandb_log_run` reads its log. The name is that of
    its metadata, or else what the folder's own name says after its date.

    Raises:
      ImportProblem: a file is none of that kind.
    """
    home = folder.parent if folder.name == "files" else folder
    config: dict[str, Value] = {}
    if (path := folder / CONFIG).exists():
        wrapped = _yaml(path)
        values = {k: v.get("value") if isinstance(v, dict) and "value" in v else v for k, v in wrapped.items()}
        config = flat({name: value for name, value in values.items() if name != "_wandb" and value is not None})
    rows = [flat(row) for row in _lines(folder / HISTORY)] if (folder / HISTORY).exists() else []
    if (path := folder / SUMMARY).exists():
        config |= {name: value for name, value in flat(read_json(path)).items() if not name.startswith("_wandb.")}
    metadata = read_json(path) if (path := folder / "wandb-metadata.json").exists() else {}
    name = metadata.get("displayName") or metadata.get("name") or home.name.rpartition("-")[2]
    return LoggedRun(str(name), home, config, rows)


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(read_plain(path))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ImportProblem(f"{path} is no YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(data, dict):
        raise ImportProblem(f"{path} holds {type(data).__name__}, expected names and values.")
    return data


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_plain(path).decode(errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError
        except (ValueError, RecursionError):
            raise ImportProblem(f"{path}: line {number} is no JSON object; a log that was cut ends so.") from None
        yield row


def mlflow_run(folder: Path) -> LoggedRun:
    """Returns the run of a folder of MLflow's file store: params/, metrics/ (time, value and step a line), tags/.

    Raises:
      ImportProblem: a metric's file holds something else.
    """
    params = {name: plain(text.strip()) for name, text in _texts(folder / "params")}
    rows: dict[int, dict[str, Value]] = {}
    for name, text in _texts(folder / "metrics"):
        for line in text.splitlines():
            try:
                _, value, *step = line.split()
                at = int(step[0]) if step else 0
                rows.setdefault(at, {"step": at})[name] = float(value)
            except ValueError:
                place = folder / "metrics" / name
                raise ImportProblem(f"{place}: {line[:60]!r}, expected a time, a value and a step.") from None
    meta = _yaml(folder / "meta.yaml")
    tags = dict(_texts(folder / "tags"))
    name = tags.get("mlflow.runName") or meta.get("run_name") or folder.name
    return LoggedRun(str(name).strip(), folder, params, [rows[step] for step in sorted(rows)])


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file():
            yield path.relative_to(folder).as_posix(), read_plain(path).decode(errors="replace")
