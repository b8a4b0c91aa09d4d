"""What a running sweep shows: cells, curves, forecasts, seconds, what is wrong and what to type."""

import contextlib
import math
import re
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kleiber.experiments.config_file import from_data
from kleiber.experiments.directory.doctor import diagnose
from kleiber.experiments.directory.record import RunRecord, read_record, record_path
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.launch.job import FRESH_SECONDS
from kleiber.experiments.planning.cells import TrunkCell, all_cells
from kleiber.experiments.report.time_spent import seconds_by_trunk
from kleiber.experiments.sweeping.expected import Curves, ExpectedEnds
from kleiber.files import read_json
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.scaling.forecasting.scoreboard import standing

MOST_POINTS = 160
"""Of a curve, evenly over its tokens."""
MOST_CURVES = 60
"""Of the runs that moved last."""
DOCTOR_SECONDS = 10.0
"""Between looks for damage."""
LAST_LINES = 12
PROGRESS = re.compile(r"^\d\d:\d\d:\d\d (\[(?:fit|target)\] .*)$", re.MULTILINE)


class Watch:
    """Looks at a sweep again and again; what does not change any more is read once."""

    def __init__(self, directory: Path):
        """Raises FileNotFoundError where there is no sweep."""
        self.directory = directory
        path = directory / "experiment.json"
        if not path.exists():
            raise FileNotFoundError(f"{directory} is no sweep's: there is no experiment.json. Give what --out was.")
        self.experiment = from_data(Experiment, read_json(path))
        self.cells = all_cells(self.experiment)
        self.records: dict[str, RunRecord] = {}
        self.curves = Curves(directory)
        self.expected_ends = ExpectedEnds(self.curves, self.cells)
        self.diagnosed = -math.inf
        self.findings: list[dict[str, Any]] = []

    def look(self) -> dict[str, Any]:
        """Returns all there is to show, as plain data."""
        cells = [self._cell(cell) for cell in self.cells]
        ledger, distrust = self._ledger()
        log = self._log()
        return _plain(
            {
                "name": self.experiment.name,
                "question": self.experiment.question,
                "directory": str(self.directory.absolute()),
                "at": time.strftime("%Y-%m-%d %H:%M:%S"),
                "state": self._state(),
                "said": (PROGRESS.findall(log) or [""])[-1],
                "points": [sum(cell["points"][each] for cell in cells) for each in (0, 1)],
                "statuses": dict(Counter(cell["status"] for cell in cells)),
                "cells": cells,
                "curves": self._curves(),
                "forecasts": self._forecasts(ledger),
                "ledger": [
                    {
                        name: entry.get(name)
                        for name in (
                            "event",
                            "target",
                            "registered_at",
                            "predicted_loss",
                            "observed_loss",
                            "reason",
                            "hash",
                        )
                    }
                    for entry in ledger
                ],
                "seconds": self._seconds(),
                "jobs": self._jobs(),
                "wrong": self._wrong(distrust),
                "result": self._result(),
                "log": log.splitlines()[-LAST_LINES:],
            }
        )

    def _cell(self, cell: TrunkCell) -> dict[str, Any]:
        for name in cell.run_ids.values():
            if name not in self.records and (path := record_path(self.directory, name)).exists():
                with contextlib.suppress(OSError, ValueError):  # the doctor tells
                    self.records[name] = read_record(path)
        found = [self.records[name] for name in cell.run_ids.values() if name in self.records]
        progress, age = self._progress(cell.trunk_id) if len(found) < len(cell.run_ids) else ({}, math.inf)
        bad = next((r for r in found if r.status in ("failed", "diverged")), None)
        share = min(1.0, progress.get("trained_tokens", 0) / cell.trained_tokens)
        status = "running" if age < FRESH_SECONDS else "paused" if progress else "waiting"
        if len(found) == len(cell.run_ids):
            status, share = bad.status if bad else "done", 1.0
        losses = [r.loss for r in found if r.loss is not None]
        expected = self.expected_ends.of(cell) if status in ("running", "paused") else None
        return {
            "trunk": cell.trunk_id,
            "label": cell.target or cell.label,
            "split": cell.split,
            "num_params": next(iter(cell.planned.values())).num_params_total,
            "num_tokens": max(cell.run_ids),
            "points": [len(found), len(cell.run_ids)],
            "status": status,
            "share": share,
            "loss": losses[-1] if status == "done" and losses else progress.get("loss"),
            "tokens_per_second": progress.get("tokens_per_second") if status == "running" else None,
            "reason": bad.reason if bad else "",
            "expected": asdict(expected) if expected else None,
        }

    def _progress(self, trunk: str) -> tuple[dict[str, Any], float]:
        """Returns what a worker last said of a trunk, and how many seconds ago."""
        path = self.directory / "runs" / trunk / "progress.json"
        with contextlib.suppress(OSError, ValueError):
            return read_json(path), time.time() - path.stat().st_mtime
        return {}, math.inf

    def _curves(self) -> list[dict[str, Any]]:
        """Returns the training curves of the trunks that moved last; reads what their logs have more than before."""
        paths = []
        groups = {cell.trunk_id: cell for cell in self.cells}
        for trunk in groups:
            with contextlib.suppress(OSError):
                paths.append((self.curves.path(trunk).stat().st_mtime, trunk))
        shown = []
        for _, trunk in sorted(paths)[-MOST_CURVES:]:
            cell = groups[trunk]
            for segment, points in self.curves.read(trunk).items():
                step = max(1, len(points) // MOST_POINTS)
                thin = points[::step] + ([points[-1]] if (len(points) - 1) % step else [])
                name = cell.target or cell.label
                shown.append(
                    {
                        "name": name if segment == "trunk" else f"{name} {segment}",
                        "num_params": next(iter(cell.planned.values())).num_params_total,
                        "points": [[tokens, round(loss, 5)] for tokens, loss in sorted(thin)],
                    }
                )
        return shown

    def _ledger(self) -> tuple[list[dict[str, Any]], str]:
        try:
            return Ledger(self.directory / "ledger.jsonl").entries(), ""
        except (OSError, ValueError) as problem:
            return [], str(problem)

    def _forecasts(self, ledger: list[dict[str, Any]]) -> list[dict[str, Any]]:
        shown = []
        for target, (forecast, outcome) in standing(ledger).items():
            low, high = forecast["interval"]
            cell = next((cell for cell in self.cells if cell.target == target), None)
            progress = self._progress(cell.trunk_id)[0] if cell else {}
            shown.append(
                {
                    "target": target,
                    "num_params": forecast["num_params_total"],
                    "num_tokens": forecast["num_tokens"],
                    "predicted": forecast["predicted_loss"],
                    "low": low,
                    "high": high,
                    "level": forecast["level"],
                    "registered_at": forecast.get("registered_at"),
                    "observed": outcome["observed_loss"] if outcome else None,
                    "training_loss": None if outcome else progress.get("loss"),
                }
            )
        return shown

    def _seconds(self) -> dict[str, float]:
        """Returns the seconds of the workers by kind."""
        total: Counter[str] = Counter()
        for seconds in seconds_by_trunk(self.directory).values():
            total.update(seconds)
        return {kind: round(seconds, 1) for kind, seconds in total.items() if seconds > 0}

    def _jobs(self) -> list[dict[str, Any]]:
        jobs = []
        for path in sorted(self.directory.glob("jobs/*.json")):
            with contextlib.suppress(OSError, ValueError):
                sign = read_json(path, "host", "exit_code")
                age = time.time() - path.stat().st_mtime
                ended = sign["exit_code"]
                state = "at work" if ended is None and age < FRESH_SECONDS else "silent" if ended is None else "ended"
                jobs.append({"name": path.stem, "host": sign["host"], "state": state, "code": ended, "age": round(age)})
        return jobs

    def _state(self) -> str:
        """Returns whether a driver is at work."""
        path = self.directory / "sweep.json"
        with contextlib.suppress(OSError, ValueError):
            holder, age = read_json(path), time.time() - path.stat().st_mtime
            if not holder.get("released") and age < FRESH_SECONDS:
                return f"at work (pid {holder.get('pid')} on {holder.get('host')})"
        return "ended" if (self.directory / "result.json").exists() else "stopped; the same line goes on"

    def _wrong(self, distrust: str) -> list[dict[str, Any]]:
        """Returns what the doctor finds in all but the checkpoints, and what to type."""
        if time.monotonic() - self.diagnosed > DOCTOR_SECONDS:
            self.findings = [
                {"what": f"{each.path}: {each.what}", "type": each.remedy, "kind": each.kind}
                for each in diagnose(self.directory, has_checkpoints=False).findings
                if each.kind == "damaged" or each.what.startswith(("failed", "diverged", "its watchdog", "its sweep"))
            ]
            self.diagnosed = time.monotonic()
        own = [{"what": f"ledger.jsonl: {distrust}", "type": "", "kind": "damaged"}] if distrust else []
        return own + [each for each in self.findings if not distrust or "ledger.jsonl" not in each["what"]]

    def _result(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = read_json(self.directory / "result.json")
            return {name: found[name] for name in ("headline", "gate", "answer", "exit_code") if name in found}
        return {}

    def _log(self) -> str:
        """Returns the end of the log."""
        with contextlib.suppress(OSError):
            with open(self.directory / "log.txt", "rb") as file:
                file.seek(max(0, (self.directory / "log.txt").stat().st_size - 20_000))
                return file.read().decode(errors="replace")
        return ""


def _plain(data: Any) -> Any:
    """Returns data with None in place of numbers that are none, which JSON does not have."""
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
