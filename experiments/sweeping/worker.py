"""A worker process: claims trunks of a sweep one after another and trains them. Started by the sweep driver.

A claim is a file lock that the system drops with the process, so a killed worker never blocks a trunk and two
workers, of one driver or of two, never train the same one.
"""

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jax
from filelock import FileLock, Timeout

from kleiber.experiments.config_file import from_data, to_data
from kleiber.experiments.directory.record import record_path, source_name
from kleiber.experiments.exit_codes import (
    EXIT_CANNOT_WRITE,
    EXIT_DONE,
    EXIT_OUT_OF_MEMORY,
    EXIT_RESUMABLE,
    EXIT_USAGE,
)
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.launch.local import DRIVER_PIPE, IDLE_SECONDS, WARNING
from kleiber.experiments.planning.cells import TrunkCell, group_id, populations, trunk_cells
from kleiber.experiments.planning.pruning import Hopeless
from kleiber.experiments.sweeping.command_run import run_command
from kleiber.experiments.sweeping.compiled import cache_of_programs, remove_damaged
from kleiber.experiments.sweeping.failures import (
    MAX_ATTEMPTS,
    Attempts,
    beat_of,
    cannot_write,
    here,
    is_lost_peer,
    is_out_of_memory,
    write_problem,
)
from kleiber.experiments.sweeping.peers import PeersDiffer, agree_on_data, agree_on_hosts, is_here, presence
from kleiber.experiments.sweeping.trunk_run import run_trunk, write_record
from kleiber.files import read_json, write_json, write_whole
from kleiber.parallel import hosts
from kleiber.parallel.environment import process_in_environment, runs_on_cpu
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.train.checkpoints.manifest import CannotSave
from kleiber.train.watch.signals import StopRequest
from kleiber.train.watch.watchdog import hang_seconds

SPLITS = ("fit", "target", "follow", "start")
"""What a worker trains; a process other than the lead follows it."""


def main(directory: Path, split: str, index: int, session: str) -> int:
    """Works until every trunk of the split has its records, or a stop is asked for.

    A mistake before a trunk is taken up, which every other worker would meet too, is told to the driver: exit code 2.
    """
    _stay_on_core(index)
    try:
        experiment, groups, stop = _start(directory, split)
    except hosts.PeerMissing as missing:
        tell_driver(str(missing))
        os._exit(EXIT_RESUMABLE)  # an orderly end would wait for who did not come
    except PeersDiffer as difference:
        tell_driver(str(difference))
        hosts.disconnect()
        return EXIT_USAGE
    except (ValueError, TypeError, LookupError, ImportError) as mistake:
        if is_lost_peer(mistake):
            raise
        traceback.print_exc()
        tell_driver(str(mistake) if isinstance(mistake, ValueError) else f"{type(mistake).__name__}: {mistake}")
        os._exit(EXIT_USAGE)  # nor with those who wait for this one
    try:
        for group in _pending(groups, directory, session):
            if hosts.is_lead():
                _claim(experiment, group, directory, session, stop)
            else:
                _follow(experiment, group, directory, stop)
            if hosts.any_of(stop()):
                print(f"worker {index}: stopped ({stop.reason or 'by another process'})", flush=True)
                hosts.disconnect()
                return EXIT_RESUMABLE
    except (OSError, CannotSave) as problem:
        if not cannot_write(problem):
            raise
        tell_driver(write_problem(problem, directory))
        return EXIT_CANNOT_WRITE
    hosts.disconnect()
    return EXIT_DONE


def _start(directory: Path, split: str) -> tuple[Experiment, list[list[TrunkCell]], StopRequest]:
    """Meets the other processes, and returns what there is to train once all of them are found alike."""
    number, count = process_in_environment()
    beats = [beat_of(directory, os.getpid()), *([presence(directory, number)] if count > 1 else [])]
    threading.Thread(target=_beat, args=[beats], name="kleiber-heartbeat", daemon=True).start()
    hosts.connect(lambda other: is_here(directory, other, number))
    logging.getLogger("kleiber").addHandler(_WarningsToDriver(logging.WARNING))
    logging.getLogger("kleiber").propagate = False
    if removed := remove_damaged(*cache_of_programs()):
        tell_driver(f"{WARNING}{len(removed)} damaged entries of the compilation cache were removed: {removed[0][:60]}")
    experiment = from_data(Experiment, read_json(directory / "experiment.json"))
    if count > 1:
        agree_on_hosts(experiment)
    stop = StopRequest()  # after connecting, which takes SIGTERM for itself
    split = SPLITS[hosts.from_lead(SPLITS.index(split))]
    groups = populations(trunk_cells(experiment, split), experiment.population_size)
    if count > 1:
        agree_on_data(cell.config for group in groups for cell in group)
    return experiment, groups, stop


def _pending(groups: list[list[TrunkCell]], directory: Path, session: str) -> Iterator[list[TrunkCell]]:
    """Yields what is left to train, the largest first, until nothing is, or others have had all of it for too long;
    several processes train together what the lead chooses."""
    while jax.process_count() > 1:
        missing = [n for n, group in enumerate(groups) if _missing(group, directory) and _can_begin(group, directory)]
        index = hosts.from_lead(missing[0] if missing else -1)
        if index < 0:
            return
        yield groups[index]
    patience, idle_since = float(os.environ.get(IDLE_SECONDS, "inf")), time.monotonic()
    while pending := [group for group in groups if _missing(group, directory)]:
        for group in pending:
            if _can_begin(group, directory) and not is_compiling(group, groups, directory, session):
                asked = time.monotonic()
                yield group
                if not _missing(group, directory):  # trained: look again from the largest on
                    break
                idle_since = time.monotonic() if time.monotonic() - asked > 1 else idle_since
        else:
            if time.monotonic() - idle_since > patience:
                return
            time.sleep(0.2)
            continue
        idle_since = time.monotonic()


def is_compiling(group: list[TrunkCell], groups: list[list[TrunkCell]], directory: Path, session: str) -> bool:
    """Returns whether another worker is compiling this shape: once that is done the cache has it, and until then there
    are other shapes to train."""
    others = (other for other in groups if other[0].config.model == group[0].config.model and other is not group)
    folders = (directory / "runs" / group_id(other) for other in others)
    return any(Attempts(folder, session).pid and not (folder / "progress.json").exists() for folder in folders)


def _follow(experiment: Experiment, group: list[TrunkCell], directory: Path, stop: StopRequest) -> None:
    """Trains a trunk together with the lead, which writes everything there is to write."""
    from kleiber.train.trunk import Stopped
    from kleiber.train.watch.skip_counts import Diverged

    with contextlib.suppress(Stopped, Diverged, ValueError, TypeError, NotImplementedError):
        _run(experiment, group, directory, stop)
    stop.has_work = False


def tell_driver(text: str) -> None:
    """Says something to the user by way of the driver: a pipe works where a full disk does not."""
    pipe = os.environ.get(DRIVER_PIPE)
    if pipe:
        with contextlib.suppress(OSError):
            os.write(int(pipe), " ".join(text.splitlines()).encode()[:4000] + b"\n")
    with contextlib.suppress(OSError):
        print(f"worker: {text}", flush=True)


class _WarningsToDriver(logging.Handler):
    """Sends kleiber's own warnings, such as that of a damaged checkpoint, to whoever watches the sweep."""

    def emit(self, record: logging.LogRecord) -> None:
        tell_driver(WARNING + record.getMessage().replace("\n", " "))


def _claim(experiment: Experiment, group: list[TrunkCell], directory: Path, session: str, stop: StopRequest) -> None:
    """Trains a trunk, or population, unless another worker has it or it is done."""
    if not (directory / "experiment.json").exists():
        return  # moved or removed: nothing is begun at the old place
    folder = directory / "runs" / group_id(group)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "claim.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    try:
        if _missing(group, directory):
            _train(experiment, group, directory, session, stop)
    finally:
        stop.has_work = False
        lock.release()


def _can_begin(group: list[TrunkCell], directory: Path) -> bool:
    """Returns whether the points have ended that a trunk begins with and learns from: where stages follow each other,
    one of the same phase may have to be waited for."""
    sources = [source for source in (group[0].config.start, group[0].config.teacher) if source and source.train]
    return all(record_path(directory, str(source_name(source))).exists() for source in sources)


def _missing(group: list[TrunkCell], directory: Path) -> bool:
    return any(cell.missing(directory) for cell in group)


def _beat(paths: list[Path]) -> None:
    """Shows the driver and other hosts for as long as this process lives, idle or not, that it runs its threads: one
    that is stopped or frozen does not."""
    while True:
        for path in paths:
            with contextlib.suppress(OSError):  # a full disk is reported by whoever must write
                path.touch()
        time.sleep(min(1.0, hang_seconds() / 5))


def _stay_on_core(index: int) -> None:
    """Keeps a process that computes on one CPU device on one core, before XLA counts the cores it may use: its flag for
    one thread does not reach all products, and two workers that each use both cores wait for each other: half the speed
    (docs/speed.md). The host of an accelerator keeps all its cores, to compile and to read data."""
    is_one = os.environ.get("JAX_NUM_CPU_DEVICES", "1") == "1" and process_in_environment()[1] == 1
    if is_one and runs_on_cpu() and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})


def _train(experiment: Experiment, group: list[TrunkCell], directory: Path, session: str, stop: StopRequest) -> None:
    """Trains one claimed trunk, or population, and writes the record of each point; failures become typed records.

    Mistakes of a config fail at once. Anything else, a lack of memory and a hang included, is tried again from the
    trunk's own checkpoint, up to MAX_ATTEMPTS times in one launch.
    """
    from kleiber.train.trunk import Stopped
    from kleiber.train.watch.skip_counts import Diverged

    for cell in group:
        config_path = directory / "runs" / cell.trunk_id / "config.json"
        if not config_path.exists():
            write_json(config_path, to_data(cell.config))
    attempts = Attempts(directory / "runs" / group_id(group), session)
    if attempts.is_exhausted():
        _record_failure(experiment, group, directory, "failed", attempts.summary())
        return
    _note_beginning(group, directory)
    attempts.start(here(os.getpid()))
    was_stopped, stop.on_leaving = False, lambda: attempts.leave(was_stopped=True)
    try:
        _run(experiment, group, directory, stop)
    except Stopped as stopped:
        was_stopped = True
        print(f"{group_id(group)}: {stopped}", flush=True)
    except Diverged as problem:
        _record_failure(experiment, group, directory, "diverged", problem)
    except Hopeless as cut:
        _record_failure(experiment, group, directory, "pruned", str(cut))
    except (Exception, MemoryError) as problem:
        if cannot_write(problem):
            raise
        if jax.process_count() > 1 and is_lost_peer(problem):
            print(
                f"another process is gone: {str(problem)[:200]}; the same line goes on from the checkpoint", flush=True
            )
            os._exit(EXIT_RESUMABLE)  # an orderly end would wait for the one that is gone
        out_of_memory = is_out_of_memory(problem)
        if isinstance(problem, ValueError | TypeError | NotImplementedError) and not out_of_memory:
            _record_failure(experiment, group, directory, "failed", problem)
            return
        reason = f"{'out of memory: ' if out_of_memory else ''}{type(problem).__name__}: {problem}"[:500]
        attempts.end(reason)
        _write_traceback(directory, group, problem)
        print(f"{group_id(group)}: attempt {attempts.count} of {MAX_ATTEMPTS} failed, {reason}", flush=True)
        if out_of_memory:  # only the end of the process gives all memory back; the driver starts another
            os._exit(EXIT_OUT_OF_MEMORY)
    finally:
        with contextlib.suppress(OSError):
            attempts.leave(was_stopped)


def _run(experiment: Experiment, group: list[TrunkCell], directory: Path, stop: StopRequest) -> None:
    """Trains a group by the program that its config names, else by kleiber's own trainer."""
    if group[0].config.command:
        run_command(group[0], directory, stop)
    else:
        run_trunk(experiment, group, directory, stop)


def _note_beginning(group: list[TrunkCell], directory: Path) -> None:
    """Notes when each target begins, and the ledger's last hash then, which fixes its forecast."""
    for cell in group:
        path = directory / "runs" / cell.trunk_id / "begun.json"
        if cell.target and not path.exists():
            entries = Ledger(directory / "ledger.jsonl").entries()
            head = entries[-1]["hash"] if entries else None
            write_json(path, {"at": datetime.now(UTC).isoformat(timespec="seconds"), "ledger_head": head})


def _write_traceback(directory: Path, group: list[TrunkCell], problem: BaseException) -> None:
    write_whole(directory / "runs" / group_id(group) / "error.txt", "".join(traceback.format_exception(problem)))


def _record_failure(
    experiment: Experiment, group: list[TrunkCell], directory: Path, status: str, problem: Exception | str
) -> None:
    if isinstance(problem, Exception):
        _write_traceback(directory, group, problem)
    reason = problem if isinstance(problem, str) else f"{type(problem).__name__}: {problem}"
    for cell in group:
        for num_tokens in cell.missing(directory):
            record = replace(cell.planned[num_tokens], status=status, reason=reason)
            write_record(directory, cell, num_tokens, record)
            print(f"{record.run_id} {status}: {reason}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
