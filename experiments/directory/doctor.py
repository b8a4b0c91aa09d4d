"""The state of a sweep or run directory: what is whole, what is damaged, and how it can be saved. Changes nothing."""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kleiber.experiments.config_file import from_data
from kleiber.experiments.directory.record import record_problem
from kleiber.experiments.experiment import Experiment
from kleiber.scaling.forecasting.ledger import Ledger

SAME_LINE = "type the line that made this directory again"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written."""

    path: str
    """Relative to the directory."""
    kind: Literal["damaged", "leftover", "note"]
    """Damage needs a decision or costs work; a leftover of a kill goes by itself; a note is worth knowing."""
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found."""

    directory: str
    checked: dict[str, int]
    """How many records, checkpoints, logs and so on were looked at."""
    findings: tuple[Finding, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is damaged."""
        return all(finding.kind != "damaged" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Returns the diagnosis as JSON data."""
        findings = [asdict(finding) for finding in self.findings]
        return {"directory": self.directory, "healthy": self.is_healthy, "checked": self.checked, "findings": findings}


def diagnose(directory: Path) -> Diagnosis:
    """Returns the state of a directory of `kleiber sweep` or `kleiber train`, or of one run or checkpoint in it.

    Raises:
      ValueError: nothing of kleiber is there.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory} is no directory; give one made by `kleiber sweep` or `kleiber train`.")
    doctor = _Doctor(directory)
    if (directory / "manifest.json").exists():
        findings = list(doctor.checkpoint(directory))
    elif (directory / "experiment.json").exists():
        findings = list(doctor.sweep())
    elif (directory / "config.json").exists() or (directory / "checkpoints").exists():
        findings = list(doctor.run(directory))
    else:
        raise ValueError(
            f"{directory} holds no experiment.json, config.json or manifest.json: it is none of kleiber's."
        )
    order = {"damaged": 0, "leftover": 1, "note": 2}
    return Diagnosis(str(directory), doctor.checked, tuple(sorted(findings, key=lambda f: (order[f.kind], f.path))))


class _Doctor:
    def __init__(self, directory: Path):
        self.directory = directory
        self.checked = {"records": 0, "checkpoints": 0, "logs": 0, "forecasts": 0}
        self.records: dict[str, dict[str, Any]] = {}

    def sweep(self) -> Iterator[Finding]:
        """Yields what is wrong in a whole sweep directory."""
        yield from self.links()
        yield from self.lock()
        data, problem = _read(self.directory / "experiment.json")
        if problem:
            remedy = f"remove the file and {SAME_LINE}: it is written anew and every finished run is kept"
            yield self.finding(self.directory / "experiment.json", "damaged", problem, remedy)
        else:
            try:
                from_data(Experiment, data)
            except (ValueError, TypeError, AttributeError) as mistake:
                yield self.finding(self.directory / "experiment.json", "damaged", str(mistake))
        runs = self.directory / "runs"
        for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
            if folder.is_dir() and not folder.name.startswith("."):
                yield from self.run(folder)
            else:
                yield self.finding(folder, "leftover", "of a process that was killed", "it does no harm")
        for name in ("plan.json", "fit.json", "result.json", "allowed.json"):
            if (self.directory / name).exists() and (problem := _read(self.directory / name)[1]):
                again = f"remove it and {SAME_LINE}: it is made again from the records"
                yield self.finding(self.directory / name, "damaged", problem, again)
        yield from self.table()
        yield from self.ledger()

    def run(self, folder: Path) -> Iterator[Finding]:
        """Yields what is wrong in the folder of one run."""
        for name in ("config.json", "progress.json", "attempts.json"):
            if (folder / name).exists() and (problem := _read(folder / name)[1]):
                yield self.finding(folder / name, "damaged", problem, f"remove it and {SAME_LINE}")
        yield from self.record(folder)
        yield from self.metrics(folder / "metrics.jsonl")
        for stacks in folder.glob("stacks.txt"):
            yield self.finding(stacks, "note", "its watchdog ended a worker here; the file says where it hung")
        for leftover in (*folder.glob(".*.*.*"), *folder.glob("*.partial")):
            yield self.finding(leftover, "leftover", "of a write that was cut off; it was never believed")
        for place in (*sorted((folder / "checkpoints").glob("*")), folder / "final"):
            yield from self.checkpoints(place)

    def record(self, folder: Path) -> Iterator[Finding]:
        path = folder / "record.json"
        if not path.exists():
            return
        self.checked["records"] += 1
        again = f"remove it and {SAME_LINE}: that point is measured again"
        record, problem = _read(path)
        problem = problem or record_problem(record)
        if not problem and record["run_id"] != folder.name:
            problem = f"it is not the record of {folder.name}"
        if problem:
            yield self.finding(path, "damaged", problem, again)
        else:
            self.records[folder.name] = record
            if (kept := record.get("final_checkpoint")) and not (folder / kept).is_dir():
                yield self.finding(folder / kept, "note", "the measured weights are not here; the record is whole")
            if record["status"] in ("failed", "diverged"):
                remedy = "kleiber sweep ... --retry-failed tries it again" if record["status"] == "failed" else ""
                yield self.finding(path, "note", f"{record['status']}: {record['reason']}", remedy)

    def metrics(self, path: Path) -> Iterator[Finding]:
        if not path.exists():
            return
        self.checked["logs"] += 1
        last: dict[str, int] = {}
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                segment, step = row["segment"], int(row["step"])
            except (ValueError, KeyError, TypeError):
                is_last = number == len(lines)
                what = f"line {number} is not a whole row" + (" (cut by a kill)" if is_last else "")
                yield self.finding(path, "leftover" if is_last else "damaged", what, "the next resume drops it")
                continue
            if step <= last.get(segment, -1):
                yield self.finding(path, "damaged", f"line {number}: step {step} of {segment} comes again or too late")
            last[segment] = step

    def checkpoints(self, place: Path) -> Iterator[Finding]:
        """Yields what is wrong with the checkpoints of one trunk or branch, and which one a resume would take."""
        if not place.is_dir():
            return
        healthy: list[tuple[Path, list[Finding]]] = []
        broken: list[tuple[Path, list[Finding]]] = []
        for folder in sorted(place.iterdir()):
            if folder.name.startswith("step_"):
                found = list(self.checkpoint(folder))
                (broken if found else healthy).append((folder, found))
            elif folder.name.startswith(("partial_", "damaged_")):
                yield self.finding(
                    folder, "leftover", "of a save that was cut off or damaged", "the next save removes it"
                )
            else:
                yield self.finding(folder, "note", "not written by kleiber")
        point = place.parent if place.name == "final" else None
        newest = max((int(f.name[5:]) for f, _ in healthy if f.name[5:].isdigit()), default=None)
        for _, found in broken:
            saved = (
                f"step {newest} is whole: {SAME_LINE}, it goes on from there"
                if newest is not None
                else f"remove {point} and {SAME_LINE}: that point is measured again"
                if point
                else f"no older one is whole: remove {place} and {SAME_LINE}; this part is trained again from its start"
            )
            yield from (Finding(f.path, f.kind, f.what, saved) for f in found)

    def checkpoint(self, folder: Path) -> Iterator[Finding]:
        """Yields why one checkpoint cannot be trusted, every file and array read and compared."""
        from kleiber.train.checkpoints.checkpoint import load_arrays
        from kleiber.train.checkpoints.manifest import CheckpointError

        self.checked["checkpoints"] += 1
        try:
            load_arrays(folder)
        except CheckpointError as problem:
            yield self.finding(folder, "damaged", str(problem))

    def table(self) -> Iterator[Finding]:
        path = self.directory / "table.parquet"
        if not path.exists():
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        again = f"remove it and {SAME_LINE}: it is written again from the records"
        try:
            rows = {row["run_id"]: row for row in pq.read_table(path).to_pylist()}
        except (OSError, pa.ArrowException, KeyError) as problem:
            yield self.finding(path, "damaged", f"it cannot be read ({str(problem)[:200]})", again)
            return
        for name in sorted(rows.keys() | self.records.keys()):
            row, record = rows.get(name), self.records.get(name)
            if row is None:
                yield self.finding(path, "note", f"{name} is not in it yet", SAME_LINE)
            elif record is not None and any(row.get(key) != value for key, value in record.items()):
                keys = [key for key, value in record.items() if row.get(key) != value]
                yield self.finding(path, "damaged", f"{name} differs from its record in {', '.join(keys[:5])}", again)

    def ledger(self) -> Iterator[Finding]:
        path = self.directory / "ledger.jsonl"
        if not path.exists() and not Ledger(path).head_path.exists():
            return
        try:
            self.checked["forecasts"] = Ledger(path).verify()
        except ValueError as problem:
            remedy = "a ledger is not mended: its forecasts no longer count as made before their runs"
            yield self.finding(path, "damaged", str(problem), remedy)

    def lock(self) -> Iterator[Finding]:
        holder, problem = _read(self.directory / "sweep.json")
        if problem or not isinstance(holder, dict) or holder.get("released") or not holder.get("pid"):
            return
        if holder.get("host", platform.node()) == platform.node() and not _is_alive(holder["pid"]):
            what = f"its sweep (pid {holder['pid']}, since {holder.get('since')}) was killed"
            yield self.finding(self.directory / "sweep.json", "leftover", what, f"{SAME_LINE}: the lock is taken over")
        else:
            what = f"in use by pid {holder['pid']} on {holder.get('host')} since {holder.get('since')}"
            yield self.finding(self.directory / "sweep.json", "note", what)

    def links(self) -> Iterator[Finding]:
        root = self.directory.resolve()
        for path in self.directory.rglob("*"):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                yield self.finding(path, "damaged", f"a link out of the directory, to {path.resolve()}", "remove it")

    def finding(self, path: Path, kind: Literal["damaged", "leftover", "note"], what: str, remedy: str = "") -> Finding:
        relative = path.relative_to(self.directory).as_posix() if path != self.directory else "."
        return Finding(relative, kind, what, remedy)


def _read(path: Path) -> tuple[Any, str]:
    """Returns (the JSON of a file that holds an object or a list, "") or (an empty one, what is wrong)."""
    try:
        if path.stat().st_size > 500_000_000:
            return {}, "too large to be a file of kleiber"
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}, "missing"
    except (OSError, ValueError, RecursionError) as problem:
        return {}, f"not whole JSON ({problem})"
    return (data, "") if isinstance(data, dict | list) else ({}, "not an object")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError, TypeError):
        return True
    return True
