"""A worker process: claims trunks of a sweep one after another and trains them. Started by the sweep driver.

A claim is a file lock that the system drops with the process, so a killed worker never blocks a trunk and two
workers, of one driver or of two, never train the same one.
"""

import errno
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kleiber.experiments.cells import TrunkCell, group_id, populations, trunk_cells
from kleiber.experiments.config_file import from_data, to_data
from kleiber.experiments.errors import EXIT_DONE, EXIT_RESUMABLE
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.record import read_json, record_path, versions, write_json

MAX_ATTEMPTS = 3
"""Times a trunk is started in one launch of a sweep before it counts as failed (a killed or crashed worker)."""


class StopRequest:
    """True once the process was asked to end, by a signal or by the death of its driver."""

    def __init__(self) -> None:
        self.parent = os.getppid()
        self.reason = ""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self.reason = signal.Signals(number).name

    def __call__(self) -> bool:
        if not self.reason and os.getppid() != self.parent:
            self.reason = "the driver is gone"
        return bool(self.reason)


def main(directory: Path, split: str, index: int, session: str) -> int:
    """Works until every trunk of the split has its records, or a stop is asked for."""
    _pin_to_core(index)
    stop = StopRequest()
    experiment = from_data(Experiment, read_json(directory / "experiment.json"))
    groups = populations(trunk_cells(experiment, split), experiment.population_size)
    if index % 2:  # neighbours start on different shapes, so that each compiles its own
        groups = sorted(groups, key=lambda group: group[0].config.model == groups[0][0].config.model)
    while pending := [group for group in groups if _missing(group, directory)]:
        for group in pending:
            folder = directory / "runs" / group_id(group)
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / "claim.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                if _missing(group, directory):
                    _train(experiment, group, directory, session, stop)
            finally:
                lock.release()
            if stop():
                break
        if stop():
            print(f"worker {index}: stopped ({stop.reason})", flush=True)
            return EXIT_RESUMABLE
        time.sleep(0.2)
    return EXIT_DONE


def _missing(group: list[TrunkCell], directory: Path) -> bool:
    return any(cell.missing(directory) for cell in group)


def _pin_to_core(index: int) -> None:
    """Keeps this process on one core: two single-thread workers beat one two-thread process (see docs)."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})


def _train(experiment: Experiment, group: list[TrunkCell], directory: Path, session: str, stop: StopRequest) -> None:
    """Trains one claimed trunk, or population, and writes the record of each point; failures become typed records."""
    for cell in group:
        config_path = directory / "runs" / cell.trunk_id / "config.json"
        if not config_path.exists():
            write_json(config_path, to_data(cell.config))
    attempts_path = directory / "runs" / group_id(group) / "attempts.json"
    attempts = read_json(attempts_path) if attempts_path.exists() else {}
    count = attempts.get("count", 0) + 1 if attempts.get("session") == session else 1
    write_json(attempts_path, {"session": session, "count": count})
    try:
        if count > MAX_ATTEMPTS:
            raise RuntimeError(f"its worker died {MAX_ATTEMPTS} times; see log.txt")
        _run_trunk(experiment, group, directory, stop)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
            print(f"worker: {problem}: free some space under {directory}; the same line goes on", flush=True)
            stop.reason = "cannot write"
            return
        _record_failure(experiment, group, directory, "failed", problem)
    except Exception as problem:
        from kleiber.train.trunk import Diverged, Stopped

        if isinstance(problem, Stopped):
            return
        status = "diverged" if isinstance(problem, Diverged) else "failed"
        _record_failure(experiment, group, directory, status, problem)


def _record_failure(
    experiment: Experiment, group: list[TrunkCell], directory: Path, status: str, problem: Exception
) -> None:
    (directory / "runs" / group_id(group) / "error.txt").write_text("".join(traceback.format_exception(problem)))
    for cell in group:
        for num_tokens in cell.missing(directory):
            record = cell.planned(experiment.name)[num_tokens]
            reason = f"{type(problem).__name__}: {problem}"
            _write_record(directory, cell, num_tokens, {**record, "status": status, "reason": reason})
            print(f"{record['run_id']} {status}: {reason}", flush=True)


def _write_record(directory: Path, cell: TrunkCell, num_tokens: int, record: dict[str, Any]) -> None:
    path = record_path(directory, record["run_id"])
    write_json(path.parent / "config.json", {"num_tokens": num_tokens, "trunk": to_data(cell.config)})
    write_json(path, record)


def _run_trunk(experiment: Experiment, group: list[TrunkCell], directory: Path, stop: StopRequest) -> None:
    from kleiber.train.run_data import open_run_data
    from kleiber.train.trunk import Point, Trunk, TrunkIO

    data = open_run_data(group[0].config)
    folders = [directory / "runs" / cell.trunk_id for cell in group]
    common = {**versions(), **_device_columns(), "data_fingerprint": data.train.fingerprint}
    last_write = [0.0]

    def on_point(point: Point) -> None:
        cell, evaluation = group[point.member], point.evaluation
        if point.num_tokens not in cell.missing(directory):
            return
        record = {**cell.planned(experiment.name)[point.num_tokens], **common}
        record.update(
            status="done" if evaluation else "diverged",
            reason=point.reason,
            epochs=record["num_tokens"] / data.num_unique_tokens,
            num_unique_tokens=min(record["num_tokens"], data.num_unique_tokens),
            loss=evaluation.loss if evaluation else None,
            loss_standard_error=evaluation.loss_standard_error if evaluation else None,
            bits_per_byte=data.bits_per_byte(evaluation.loss) if evaluation else None,
            wall_seconds=round(point.train_seconds, 3),
            tokens_per_second=round(point.tokens_per_second, 1),
        )
        _write_record(directory, cell, point.num_tokens, record)

    def on_progress(progress: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - last_write[0] > 0.5:
            last_write[0] = now
            for folder in folders:
                partial = folder / ".progress.json"
                partial.write_text(json.dumps(progress))
                partial.replace(folder / "progress.json")

    def is_measured(num_tokens: int) -> bool:
        return not any(num_tokens in cell.missing(directory) for cell in group)

    io = TrunkIO(directory / "runs" / group_id(group), folders, on_point, is_measured, on_progress, stop)
    Trunk([cell.config for cell in group], data, io).run()


def _device_columns() -> dict[str, str]:
    import jax

    device = jax.devices()[0]
    return {"device": f"{device.platform}:{device.device_kind}"}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
