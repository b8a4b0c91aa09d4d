"""The state of a sweep or run directory: what is whole, what is damaged, and how it can be saved. Changes nothing."""

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from kleiber.experiments.config_file import from_data
from kleiber.experiments.directory.findings import (
    AGAIN,
    OF_A_RUN,
    REMEDY,
    SAME_LINE,
    Diagnosis,
    Finding,
    fit_problem,
    listed,
    read_data,
    without,
)
from kleiber.experiments.directory.record import (
    LOST,
    OF_COMMAND,
    RunRecord,
    cell_problem,
    planned_records,
    record_columns,
    record_problem,
    trunk_id,
)
from kleiber.experiments.experiment import Experiment
from kleiber.files import must_be_sealed, read_plain, row_of
from kleiber.scaling.forecasting.anchor import check_heads
from kleiber.scaling.forecasting.ledger import Ledger, LedgerError
from kleiber.scaling.forecasting.scoreboard import standing
from kleiber.train.levels import plateau
from kleiber.train.watch.metrics import read_rows

HALF_WRITTEN = re.compile(r"\..+\.\d+|.+\.tmp")
"""Names of files that a kill kept from taking their own."""


KINDS = {
    **dict.fromkeys(("table.parquet", "ledger.jsonl", "ledger.jsonl.head", "sweep.lock", "log.txt"), "file"),
    **dict.fromkeys(("runs", "replaced"), "folder"),
}
"""What each is, where nobody put something else."""


def diagnose(directory: Path, has_checkpoints: bool = True) -> Diagnosis:
    """Returns the state of a directory of `kleiber sweep` or `kleiber train`, or of one run or checkpoint in it.

    Args:
      directory: of any of these.
      has_checkpoints: whether every byte of every checkpoint is read.

    Raises:
      ValueError: nothing of kleiber is there.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory} is no directory; give one made by `kleiber sweep` or `kleiber train`.")
    doctor = _Doctor(directory, has_checkpoints)
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
    def __init__(self, directory: Path, has_checkpoints: bool):
        self.directory, self.has_checkpoints = directory, has_checkpoints
        self.checked = {"records": 0, "checkpoints": 0, "logs": 0, "forecasts": 0}
        self.records: dict[str, RunRecord] = {}
        self.sealed: set[str] = set()
        """Of the records."""
        self.planned: dict[str, RunRecord] = {}
        self.trunks: set[str] = set()

    def sweep(self) -> Iterator[Finding]:
        """Yields what is wrong in a whole sweep directory."""
        yield from self.links()
        yield from self.lock()
        yield from self.experiment()
        for path in sorted(self.directory.iterdir()):
            if HALF_WRITTEN.fullmatch(path.name):
                yield self.finding(path, "leftover", "of a write that was cut off", "it does no harm; remove it")
        runs = self.directory / "runs"
        for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
            if folder.is_dir() and not folder.name.startswith("."):
                yield from self.run(folder)
                if self.planned and not self.is_known(folder.name):
                    yield self.finding(folder, "note", "of no cell of this experiment: it is not counted")
            elif not folder.is_symlink():
                yield self.finding(folder, "leftover", "of a process that was killed", "it does no harm")
        for name, again in AGAIN.items():
            if (self.directory / name).exists():
                problem = read_data(self.directory / name, object if name == "allowed.json" else dict)[1]
                if problem := problem or (fit_problem(self.directory) if name == "fit.json" else ""):
                    yield self.finding(self.directory / name, "damaged", problem, again)
        for name, kind in KINDS.items():
            path = self.directory / name
            if path.exists() and path.is_dir() != (kind == "folder"):
                what = f"a {'file' if path.is_file() else 'folder'}, where kleiber has a {kind}"
                yield self.finding(path, "damaged", what, f"remove it and {SAME_LINE}")
        yield from self.table()
        yield from self.ledger()

    def experiment(self) -> Iterator[Finding]:
        """Yields what is wrong with the experiment; what it plans is known from here on."""
        path = self.directory / "experiment.json"
        data, problem = read_data(path)
        try:
            experiment = None if problem else from_data(Experiment, data)
        except (ValueError, TypeError, AttributeError, KeyError) as mistake:
            problem, experiment = str(mistake), None
        if experiment is None:
            remedy = f"remove the file and {SAME_LINE}: it is written anew and every finished run is kept"
            yield self.finding(path, "damaged", problem, remedy)
            return
        configs = [("fit", config, "") for config in experiment.trunks]
        configs += [("target", target.train, target.name) for target in experiment.targets]
        configs += [("start", config, "") for config in experiment.starts]
        for split, config, target in configs:
            self.trunks |= {trunk_id(config), trunk_id(plateau(config))}
            for planned in planned_records(experiment.name, split, config, target).values():
                self.planned[planned.run_id] = planned
        yield from self.texts({(c.data.corpus, c.data.tokenizer) for _, c, _ in configs if not c.command})

    def texts(self, read: set[tuple[str, str]]) -> Iterator[Finding]:
        """Yields what is wrong with the prepared texts, and their tokens, that runs read from this machine's cache."""
        from kleiber.train.data.corpora.catalogue import find_corpus, prepared_folder
        from kleiber.train.data.tokens import load_verified, tokens_folder

        for corpus, tokenizer in sorted(read):
            try:
                folder = prepared_folder(find_corpus(corpus))
            except (OSError, ValueError):  # of another machine
                folder = None
            if folder is None:
                continue
            home = tokens_folder(folder, tokenizer)
            for path in (folder / "manifest.json", home / "tokens.json"):
                data, problem = read_data(path) if path.exists() else ({}, "")
                found = {path: problem} if problem else {}
                splits = data.get("splits", {}).values() if path.parent == home else ()
                for name, digest in (each for split in splits for each in split["blake3"].items()):
                    try:
                        load_verified(home / name, digest)
                    except ValueError as damage:
                        found[home / name] = str(damage)
                remedy = f"remove {path.parent} and {SAME_LINE}: it is made again"
                yield from (Finding(str(place), "damaged", what, remedy) for place, what in found.items())

    def is_known(self, name: str) -> bool:
        """Returns whether a folder of runs/ belongs to a cell."""
        return name in self.planned or name in self.trunks or name.startswith("population-")

    def run(self, folder: Path) -> Iterator[Finding]:
        """Yields what is wrong in the folder of one run."""
        for name, remedy in OF_A_RUN.items():
            if (folder / name).exists():
                data, problem = read_data(folder / name)
                missing = [key for key in ("at", "ledger_head") if key not in data and name == "begun.json"]
                if problem := problem or (f"it has no {missing[0]}" if missing else ""):
                    yield self.finding(folder / name, "damaged", problem, remedy)
        yield from self.record(folder)
        yield from self.metrics(folder / "metrics.jsonl")
        yield from self.goodput(folder / "goodput.jsonl")
        for stacks in folder.glob("stacks.txt"):
            yield self.finding(stacks, "note", "its watchdog ended a worker here; the file says where it hung")
        for leftover in (*folder.glob(".*.*.*"), *folder.glob("*.partial")):
            yield self.finding(leftover, "leftover", "of a write that was cut off; it was never believed")
        for place in (*sorted((folder / "checkpoints").glob("*")), folder / "final") if self.has_checkpoints else ():
            yield from self.checkpoints(place)

    def record(self, folder: Path) -> Iterator[Finding]:
        path = folder / "record.json"
        if not path.exists():
            return
        self.checked["records"] += 1
        data, problem = read_data(path)
        problem = problem or record_problem(data)
        if not problem and data["run_id"] != folder.name:
            problem = f"it is not the record of {folder.name}"
        if not problem:
            record = RunRecord.from_json(data, path)
            planned = self.planned.get(folder.name, replace(record, status="done"))
            record = replace(record, split=planned.split, target=planned.target, experiment=planned.experiment)
            problem = cell_problem(record, planned)  # the names of experiment and target are those of the cell now
        if problem:
            yield self.finding(path, "damaged", problem, self.measure_again(folder.name))
            return
        self.records[folder.name] = record
        if b'"seal":' in read_plain(path):
            self.sealed.add(folder.name)
        if (kept := record.final_checkpoint) and not (folder / kept).is_dir():
            yield self.finding(folder / kept, "note", "the measured weights are not here; the record is whole")
        if record.status in LOST:
            again = REMEDY if record.corpus == OF_COMMAND else "--retry-failed"
            remedy = f"kleiber sweep ... {again} tries it again" if record.status == "failed" else ""
            yield self.finding(path, "note", f"{record.status}: {record.reason}", remedy)

    def measure_again(self, name: str) -> str:
        """Returns what to do about the record of a cell, or of none."""
        if self.planned and name not in self.planned:
            return "remove its folder: it is of no cell of this experiment"
        return f"remove it and {SAME_LINE}: that point is measured again"

    def metrics(self, path: Path) -> Iterator[Finding]:
        if not path.exists():
            return
        self.checked["logs"] += 1
        last: dict[str, int] = {}
        try:
            rows = read_rows(path)
        except (OSError, ValueError) as problem:
            yield self.finding(path, "damaged", str(problem), "remove it: only the report's curves are drawn from it")
            return
        broken, again = [], []
        for number, row in enumerate(rows, 1):
            if row is None:
                broken.append(number)
                continue
            if row["step"] <= last.get(row["segment"], -1):
                again.append(number)
            last[row["segment"]] = max(row["step"], last.get(row["segment"], -1))
        if broken == [len(rows)]:
            what = f"line {len(rows)} is not a whole row (cut by a kill)"
            yield self.finding(path, "leftover", what, "the next resume drops it")
            broken = []
        if broken:
            what = f"line {listed(broken)} is not a whole row: it was damaged, or changed by hand"
            yield self.finding(path, "damaged", what, f"take it out: {without(broken + again, path)}")
        elif again:
            row = rows[again[0] - 1] or {}
            what = f"line {listed(again)}: step {row['step']} of {row['segment']} comes again or too late"
            yield self.finding(path, "damaged", what, f"take it out: {without(again, path)}")

    def goodput(self, path: Path) -> Iterator[Finding]:
        """Yields the lines of seconds that are not as they were written; nothing measured depends on them."""
        lines = read_plain(path).decode(errors="replace").splitlines() if path.is_file() else []
        is_checked = must_be_sealed(path)
        broken = [number for number, line in enumerate(lines, 1) if row_of(line, is_checked) is None]
        if broken == [len(lines)]:
            yield self.finding(path, "leftover", "its last line is not whole (cut by a kill)", "it is left out")
        elif broken:
            what = f"line {listed(broken)} is not a whole row: it was damaged, or changed by hand"
            yield self.finding(path, "damaged", what, f"take it out: {without(broken, path)}")

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
                f"remove it: step {newest} is whole, and the line that made this directory goes on from there"
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
        if not path.is_file():
            return
        from kleiber.scaling.table.reading import SEALS, parquet_values, read_parquet

        again = f"remove it and {SAME_LINE}: it is written again from the records"
        try:
            table = read_parquet(path)
            columns = {name: parquet_values(table[name]) for name in table.column_names}
            rows = {name: index for index, name in enumerate(columns["run_id"])}
        except (OSError, ValueError, KeyError) as problem:
            yield self.finding(path, "damaged", f"it cannot be read ({str(problem)[:200]})", again)
            return
        records = list(self.records.values())
        expected = record_columns(records)
        for index, record in enumerate(records):
            name = record.run_id
            if name not in rows:
                yield self.finding(path, "note", f"{name} is not in it yet", SAME_LINE)
                continue
            row = rows[name]
            keys = [k for k, values in expected.items() if values[index] != (columns[k][row] if k in columns else None)]
            if keys:
                yield self.differs(name, ", ".join(keys[:5]), SEALS[0] in (table.schema.metadata or {}))

    def differs(self, name: str, keys: str, is_table_sealed: bool) -> Finding:
        """Returns which of record and table is the wrong one, as far as their seals tell."""
        table, record = self.directory / "table.parquet", self.directory / "runs" / name / "record.json"
        if name in self.sealed:
            again = f"remove it and {SAME_LINE}: it is written again from the records"
            return self.finding(table, "damaged", f"{name} differs from its record, which is sealed, in {keys}", again)
        if is_table_sealed:
            what = f"it has no seal, and differs from table.parquet, which has one, in {keys}"
            return self.finding(record, "damaged", what, self.measure_again(name))
        what = f"it and table.parquet differ in {keys}, and neither has a seal that says which is right"
        both = f"remove both and {SAME_LINE}: that point is measured again"
        return self.finding(record, "damaged", what, both)

    def ledger(self) -> Iterator[Finding]:
        path = self.directory / "ledger.jsonl"
        head = Ledger(path).head_path
        if any(each.exists() and not each.is_file() for each in (path, head)) or not (path.exists() or head.exists()):
            return
        data, problem = read_data(head) if head.exists() else ({"lines": 0, "hash": ""}, "")
        if problem := problem or ("" if data.keys() >= {"lines", "hash"} else "it has no lines or no hash"):
            remedy = "remove it: the chain is checked without it, and only a cut end no longer shows"
            yield self.finding(head, "damaged", problem, remedy)
            return
        try:
            entries = check_heads(Ledger(path))
        except LedgerError as problem:
            remedy = "a ledger is not mended: its forecasts no longer count as made before their runs"
            yield self.finding(path, "damaged", str(problem), remedy)
            return
        except ValueError:  # what a run noted of it, which is named there
            return
        self.checked["forecasts"] = sum(entry["event"] == "forecast" for entry in entries)
        if entries and not head.exists():
            yield self.finding(head, "note", "missing: that the end of the ledger was cut would not show")
        for _, outcome in standing(entries).values():
            record = self.records.get(outcome["run_id"]) if outcome else None
            if outcome and record and record.loss != outcome["observed_loss"]:
                what = f"its loss is {record.loss}, and {outcome['observed_loss']} was scored in ledger.jsonl"
                place = self.directory / "runs" / record.run_id / "record.json"
                yield self.finding(place, "damaged", what, self.measure_again(record.run_id))

    def lock(self) -> Iterator[Finding]:
        holder, problem = read_data(self.directory / "sweep.json")
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
            elif not (path.is_symlink() or path.is_file() or path.is_dir()):
                yield self.finding(path, "damaged", "a pipe or device, where kleiber has files only", "remove it")

    def finding(self, path: Path, kind: Literal["damaged", "leftover", "note"], what: str, remedy: str = "") -> Finding:
        relative = path.relative_to(self.directory).as_posix() if path != self.directory else "."
        return Finding(relative, kind, what, remedy)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError, TypeError):
        return True
    return True
