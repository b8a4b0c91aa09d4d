"""What a sweep directory holds, read for the report. Whatever is not there yet is named instead of refused."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.collector import collector_paused
from kleiber.experiments.directory.record import LOST
from kleiber.files import read_json
from kleiber.scaling.figures.study import MOST_SIZES, Curve, ForecastRun, Points, even_rows
from kleiber.scaling.forecasting.anchor import check_heads
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.scaling.forecasting.scoreboard import standing
from kleiber.scaling.table.reading import parquet_values, read_parquet
from kleiber.train.watch.metrics import whole_rows

MOST_CURVES = 96
"""Step logs that are read for the figure of training curves; a sweep of more trunks shows some of each size."""
MOST_LOOKED_AT = 2_000
"""Runs whose folders are each looked into."""
DAMAGED = " is damaged ("
TABLE_GAP = "no run has been measured"


@dataclass(frozen=True)
class SweepResults:
    """A sweep directory as data. `gaps` says in sentences what is missing or damaged."""

    directory: Path
    experiment: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    """result.json: the sweep's own verdict, written when it ends."""
    records: tuple[dict[str, Any], ...] = ()
    fit: dict[str, Any] | None = None
    ledger: tuple[dict[str, Any], ...] = ()
    gaps: tuple[str, ...] = ()
    distrust: str = ""
    """Why no line of the ledger counts; `ledger` is empty then."""

    @property
    def damage(self) -> list[str]:
        """The gaps where something was, but for the table, in whose place the records are read, and the plan."""
        return [gap for gap in self.gaps if DAMAGED in gap and not gap.startswith(("table", "plan"))]

    @property
    def fitted(self) -> list[dict[str, Any]]:
        """Records of measured runs that a law is fitted to."""
        return [r for r in self.records if r["status"] == "done" and r["split"] == "fit"]

    @property
    def lost(self) -> list[dict[str, Any]]:
        """Records of runs that ended without a loss."""
        return [r for r in self.records if r["status"] in LOST]

    @property
    def forecasts(self) -> dict[str, tuple[dict[str, Any], dict[str, Any] | None]]:
        """(forecast, its outcome or None) of each target of the experiment whose forecast stands in the ledger, and of
        each run that `kleiber forecast` registered there."""
        own = {target["name"] for target in self.experiment.get("targets", [])}
        pairs = standing(list(self.ledger)).items()
        return {name: pair for name, pair in pairs if name in own or not self.experiment or "run_id" not in pair[0]}

    @property
    def num_planned(self) -> int:
        """Measured points the experiment asks for, targets included."""
        trunks = [*self.experiment.get("trunks", []), *(t["train"] for t in self.experiment.get("targets", []))]
        return sum(len(trunk["num_tokens"]) for trunk in trunks)

    @property
    def sizes(self) -> list[float]:
        """Every size of the study, targets not trained yet included, so that figures agree on colours."""
        sizes = {float(r["num_params_total"]) for r in self.records}
        return sorted(sizes | {float(e["num_params_total"]) for e in self.ledger if e.get("event") == "forecast"})


@collector_paused()
def read_results(directory: Path) -> SweepResults:
    """Returns what a sweep directory holds, finished or not.

    Raises:
      FileNotFoundError: there is no such directory, or it is no sweep directory.
    """
    directory = Path(directory).resolve()
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no sweep directory {directory}.")
    if not any((directory / name).exists() for name in ("experiment.json", "table.parquet", "runs")):
        raise FileNotFoundError(
            f"{directory} is no sweep directory: it has no experiment.json, runs/ or table.parquet. "
            "Give the folder that `kleiber sweep EXPERIMENT --out DIR` wrote."
        )
    gaps: list[str] = []
    experiment = _read(directory / "experiment.json", gaps, "the question and configs are unknown")
    plan = _read(directory / "plan.json", gaps, "planned cost is unknown")
    records = _read_records(directory, plan, gaps)
    fit = _read(directory / "fit.json", gaps, "no law is fitted" if experiment.get("laws", True) else "")
    ledger, distrust = _read_ledger(directory, gaps, bool(experiment.get("targets", True)))
    result = _read(directory / "result.json", gaps, "the sweep has not ended")
    results = SweepResults(
        directory, experiment, plan, result, tuple(records), fit or None, tuple(ledger), distrust=distrust
    )
    return SweepResults(**{**vars(results), "gaps": (*gaps, *_unmeasured(results))})


def _read(path: Path, gaps: list[str], meaning: str) -> dict[str, Any]:
    """Returns the JSON object of a file; an absent or damaged one is told in gaps and comes back empty."""
    if not path.exists():
        if meaning:
            gaps.append(f"{path.name} is not there: {meaning}")
        return {}
    try:
        return read_json(path)
    except (OSError, ValueError) as problem:
        gaps.append(f"{path.name}{DAMAGED}{problem}): {meaning}")
        return {}


def _read_records(directory: Path, plan: dict[str, Any], gaps: list[str]) -> list[dict[str, Any]]:
    """Returns the rows of table.parquet and the records written since, by run id; only of runs that the plan has."""
    records: dict[str, dict[str, Any]] = {}
    if (directory / "table.parquet").is_file():
        try:
            records = {row["run_id"]: row for row in _rows(read_parquet(directory / "table.parquet"))}
        except (OSError, ValueError, KeyError) as problem:
            gaps.append(f"table.parquet{DAMAGED}{problem}): runs are read from runs/ instead")
    else:
        gaps.append("table.parquet is not there: runs are read from runs/")
    planned = {point["run_id"] for point in plan.get("points", [])}
    for name in _folders(directory / "runs"):
        if planned and name not in planned:
            continue
        if name not in records and (path := directory / "runs" / name / "record.json").exists():
            record = _read(path, gaps, f"run {name} is left out")
            if record:
                records[record.get("run_id", name)] = record
    known = list(map(_complete, records.values()))
    return sorted(known, key=lambda r: (r["split"] != "fit", r["num_params_total"], r["num_tokens"], r["run_id"]))


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    """Yields the rows of a Parquet table."""
    names, columns = table.column_names, [parquet_values(column) for column in table.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _folders(runs: Path) -> list[str]:
    """Returns the names in the folder of runs, in order; a look at the folder, not into its thousands of folders."""
    if not runs.is_dir():
        return []
    with os.scandir(runs) as entries:
        return sorted(entry.name for entry in entries)


def _complete(record: dict[str, Any]) -> dict[str, Any]:
    """Gives a record the columns the report cannot do without, so that a sparse one is still listed; returns it."""
    defaults = {"status": "pending", "split": "fit", "reason": "", "target": "", "num_params_total": 0, "num_tokens": 0}
    for name, value in {**defaults, "flops": 0.0, "loss": None, "trunk_id": record.get("run_id", "")}.items():
        record.setdefault(name, value)
    if record["status"] == "done" and not (record["loss"] and np.isfinite(record["loss"])):
        record.update(status="failed", reason=record["reason"] or "recorded as done without a finite loss")
    return record


def _read_ledger(directory: Path, gaps: list[str], is_expected: bool) -> tuple[list[dict[str, Any]], str]:
    """Returns the lines of a ledger that holds, and why one does not: then no line of it counts."""
    path = directory / "ledger.jsonl"
    if is_expected and not path.exists():
        gaps.append("ledger.jsonl is not there: no forecast has been registered")
    try:
        entries = check_heads(Ledger(path))
    except ValueError as problem:
        gaps.append(f"no forecast counts: {problem}")
        return [], str(problem)
    gaps += [
        f"a forecast of {entry['target']} was withdrawn: {entry['reason']}"
        for entry in entries
        if entry["event"] == "withdrawn"
    ]
    return entries, ""


def _unmeasured(results: SweepResults) -> list[str]:
    sentences = []
    states = Counter(r["status"] for r in results.records)
    waiting = results.num_planned - len(results.records) + states["pending"]
    if waiting > 0:
        sentences.append(f"{waiting} of {results.num_planned} planned points have not been measured yet")
    for status in (*LOST, "continued"):
        if states[status]:
            sentences.append(
                f"{states[status]} point{'s' if states[status] > 1 else ''} {status}: see the list of runs"
            )
    unscored = [t.name for t in targets_of(results) if t.observed is None]
    if unscored:
        sentences.append(f"no outcome yet for the forecast of {', '.join(unscored)}")
    return sentences


def points_of(results: SweepResults) -> Points:
    """Returns the measured runs that the law is fitted to.

    Raises:
      LookupError: there are none.
    """
    rows = results.fitted
    if not rows:
        raise LookupError(TABLE_GAP)

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    trunks = tuple(str(row["trunk_id"]) for row in rows)
    return Points(column("num_params_total"), column("num_tokens"), column("flops"), column("loss"), trunks)


def targets_of(results: SweepResults) -> list[ForecastRun]:
    """Returns the forecasts that stand in the ledger, in its order, each with its outcome where there is one."""
    return [
        ForecastRun(
            name=name,
            num_params=float(event["num_params_total"]),
            num_tokens=float(event["num_tokens"]),
            flops=float(event["flops"]),
            compute_ratio=float(event["compute_ratio"]),
            predicted=float(event["predicted_loss"]),
            low=float(event["interval"][0]),
            high=float(event["interval"][1]),
            level=float(event["level"]),
            observed=float(outcome["observed_loss"]) if outcome else None,
        )
        for name, (event, outcome) in results.forecasts.items()
    ]


MIN_LEVELS = 3
"""Levels of a knob from which on a curve through them means something."""


def factor_names(results: SweepResults) -> list[str]:
    """Returns the names of the experiment's own factors, in order."""
    trunks = results.experiment.get("trunks", [])
    return list(dict.fromkeys(str(name) for trunk in trunks for name, _ in trunk.get("factors") or []))


def trunks_with_curves(results: SweepResults) -> dict[str, float]:
    """Returns the size of every fitted trunk, or run, that has a folder with a step log, by its name.

    Runs with a step log of their own are looked for in small sweeps only; `kleiber sweep` writes none.
    """
    fitted = [r for r in results.records if r["split"] == "fit"]
    sizes = {str(r["trunk_id"]): float(r["num_params_total"]) for r in fitted}
    if len(fitted) <= MOST_LOOKED_AT:
        sizes = {str(r["run_id"]): float(r["num_params_total"]) for r in fitted} | sizes
    runs = results.directory / "runs"
    return {name: sizes[name] for name in _folders(runs) if name in sizes and (runs / name / "metrics.jsonl").exists()}


def _some_of_each_size(sizes: dict[str, float]) -> list[str]:
    """Returns the names if they are few, else those of MOST_CURVES // sizes of each size, evenly."""
    if len(sizes) <= MOST_CURVES:
        return list(sizes)
    names = np.array(list(sizes))
    values = np.array(list(sizes.values()))
    distinct = np.unique(values)
    distinct = distinct[even_rows(distinct, MOST_SIZES)]
    chosen = []
    for size in distinct:
        own = names[values == size]
        chosen += own[even_rows(np.arange(len(own), dtype=np.float64), MOST_CURVES // len(distinct))].tolist()
    return chosen


def curves_of(results: SweepResults, sizes: dict[str, float]) -> list[Curve]:
    """Returns the training curves of the fitted trunks and of their cooldown branches; of very many trunks, of some.

    A log line's `segment` says whether it is of the `trunk` or of a branch; a run folder of its own without
    segments counts as a branch when its name is not a trunk's.

    Args:
      results: of a sweep.
      sizes: of `trunks_with_curves`.
    """
    by_trunk = {str(r["trunk_id"]) for r in results.records if r["split"] == "fit"}
    curves = []
    for name in _some_of_each_size(sizes):
        size, path = sizes[name], results.directory / "runs" / name / "metrics.jsonl"
        segments: dict[str, list[tuple[float, float]]] = {}
        for row in _log_rows(path):
            segment = str(row.get("segment", "trunk" if name in by_trunk else "branch"))
            segments.setdefault(segment, []).append((float(row["num_tokens"]), float(np.mean(row["loss"]))))
        for segment, pairs in segments.items():
            tokens, loss = np.array(sorted(pairs)).T
            curves.append(Curve(f"{name}/{segment}", size, tokens, loss, is_branch=segment != "trunk"))
    return curves


def _log_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a step log that are as they were written and hold a loss."""
    try:
        rows = whole_rows(path)
    except (OSError, ValueError):
        return []
    return [r for r in rows if r.get("num_tokens") and r.get("loss") is not None and np.isfinite(r["loss"]).all()]
