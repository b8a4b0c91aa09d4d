"""A trunk trained by a program of the user's: started, watched, ended, and its losses written into records.

Whatever lies outside the program is as for kleiber's own trainer: the claim, attempts, stops and records. What the
program prints goes to runs/TRUNK/output.txt, and command.json beside it says how the last start ended: one that ended
well is never started again, and one that outlived its worker is ended before the next begins.
"""

import contextlib
import math
import os
import platform
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import psutil

from kleiber.experiments.directory.findings import REMEDY
from kleiber.experiments.planning.cells import TrunkCell
from kleiber.experiments.sweeping.command_record import CommandRows, found_record, no_record, point_records, read_rows
from kleiber.experiments.sweeping.failures import exit_reason
from kleiber.experiments.sweeping.inventory import made_with
from kleiber.experiments.sweeping.programs import program_fingerprint, program_key
from kleiber.experiments.sweeping.trunk_run import ledger_head, write_record
from kleiber.files import open_to_append, read_json, read_plain, replacing, sealed_text, write_json
from kleiber.train.watch.metrics import Metrics
from kleiber.train.watch.signals import StopRequest

POLL_SECONDS = 0.25
LEAVE_SECONDS = 12.0
"""A program has to save and leave when it is asked to stop, before it is killed; less than its worker has."""


class CommandFailed(RuntimeError):
    """The program ended otherwise than well; it may go better another time."""


def run_command(cell: TrunkCell, directory: Path, stop: StopRequest) -> None:
    """Runs the program of a trunk unless it has ended well already, and writes the record of each point.

    Raises:
      Stopped: asked to; the program was told by SIGTERM, and its folder is kept.
      Diverged: a loss is no number; the points before it have their records.
      CommandFailed: it ended with an error, or hung.
      ValueError: it ended well, and its record is missing, no table, or of another run than asked.
    """
    run = _CommandRun(cell, directory)
    run.metrics.path.unlink(missing_ok=True)  # logged anew from the record
    if not run.has_ended():
        run.execute(stop)
    try:
        rows = run.rows()
        if rows is None:
            raise ValueError(no_record(run.command, run.folder))
        run.record(rows)
    except ValueError:  # --retry-failed starts it again, with none of this
        run.mark.unlink(missing_ok=True)
        if path := found_record(run.command, run.folder):
            path.rename(path.with_name(f"{path.name}.refused"))
        raise


class _CommandRun:
    def __init__(self, cell: TrunkCell, directory: Path):
        assert cell.config.command
        self.cell, self.directory, self.command = cell, directory, cell.config.command
        self.home = directory / "runs" / cell.trunk_id
        self.folder = self.home.absolute() / "command"
        self.mark, self.output = self.home / "command.json", self.home / "output.txt"
        self.arguments = self.command.arguments(cell.config, str(self.folder))
        self.metrics = Metrics(self.home / "metrics.jsonl")
        self.started, self.seconds = time.time(), 0.0
        self.num_logged, self.last_step = 0, 0
        self.program: str | None = None

    def has_ended(self) -> bool:
        """Returns whether a start before has ended well; ends one whose worker is gone."""
        known = read_json(self.mark) if self.mark.exists() else {}
        if not known:
            return False
        if known["exit_code"] is None and known["host"] == platform.node():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(known["pid"])
                if abs(process.create_time() - known["created"]) < 1:  # no other that got its number
                    _end(process.pid, process.wait)
        self.started, self.seconds, self.program = known["started"], known["seconds"], known.get("program")
        return known["exit_code"] == 0 and known["arguments"] == self.arguments

    def execute(self, stop: StopRequest) -> None:
        """Starts the program and watches it until it has ended."""
        from kleiber.train.trunk import Stopped

        self.folder.mkdir(parents=True, exist_ok=True)
        self.started, self.program = time.time(), program_fingerprint(self.cell.config)
        known = made_with(self.directory).get("data", {}).get(program_key(self.cell.config), self.program)
        if self.program != known:
            raise ValueError(
                f"{program_key(self.cell.config)} was {known} when this sweep began, and is {self.program} now: "
                f"restore it, or stop, and type the same line with {REMEDY}"
            )
        with open_to_append(self.output) as output:
            output.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} $ {shlex.join(self.arguments)}\n")
            output.flush()
            process = self._start(output)
        try:
            created = psutil.Process(process.pid).create_time()
            facts = {"arguments": self.arguments, "host": platform.node(), "pid": process.pid, "created": created}
            facts |= {"program": self.program, "started": self.started, "seconds": 0.0, "exit_code": None}
            write_json(self.mark, facts)
            self._tell({"trained_tokens": 0, "tokens_per_second": 0.0})
            stop.has_work = True
            while process.poll() is None:
                if stop():
                    raise Stopped(f"the command was told to stop ({stop.reason})")
                self._watch()
                time.sleep(POLL_SECONDS)
        finally:
            _end(process.pid, process.wait)
        if process.returncode:
            raise CommandFailed(f"the command {exit_reason(process.returncode)}: {self._last_line()}")
        self.seconds = time.time() - self.started
        write_json(self.mark, {**facts, "seconds": self.seconds, "exit_code": 0})

    def _start(self, output: IO[str]) -> subprocess.Popen:
        """Starts the program in a group of its own, on as many cores as it may use."""
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        threads = dict.fromkeys(names, str(self.command.num_cores)) if self.command.num_cores > 1 else {}
        try:
            process = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **threads},
                start_new_session=True,
            )
        except OSError as problem:
            raise ValueError(f"cannot start {self.arguments[0]!r}: {problem.strerror}") from None
        if threads and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # the worker keeps to one core, its parent does not
                os.sched_setaffinity(process.pid, os.sched_getaffinity(os.getppid()))
        return process

    def _watch(self) -> None:
        """Shows and logs what is new in the record; raises where the run has diverged or hangs."""
        with contextlib.suppress(OSError):  # gone while it is looked at
            changed = [path.stat().st_mtime for path in (self.output, self.folder, *self.folder.iterdir())]
            silent = time.time() - max(self.started, *changed)
            if silent > self.command.max_silent_seconds:
                raise CommandFailed(f"the command hung: no output and no change in its folder for {silent:.0f} s")
        rows = None
        with contextlib.suppress(ValueError, OSError):  # a row is being written
            rows = self.rows()
        if rows is not None and rows.ends_at is not None:
            self.record(rows)
        elif rows is not None:
            self._log(rows)

    def rows(self) -> CommandRows | None:
        """Returns what the program has left of its losses, at this start or one before; None where there is nothing."""
        path = found_record(self.command, self.folder)
        return read_rows(self.command, path, self.cell.config.tokens_per_step) if path else None

    def record(self, rows: CommandRows) -> None:
        """Writes the records of the points that are missing, up to a loss that is no number.

        Raises:
          ValueError: as `point_records`; nothing is written then.
          Diverged: a loss is no number.
        """
        from kleiber.train.watch.skip_counts import Diverged

        self._log(rows)
        seconds, head = self.seconds or time.time() - self.started, ledger_head(self.cell, self.directory)
        records = point_records(self.cell, rows, self.cell.missing(self.directory), seconds)
        for num_tokens, record in records.items():
            told = replace(record, ledger_head=head, program_fingerprint=self.program)
            write_record(self.directory, self.cell, num_tokens, told)
        if problem := rows.problem():
            raise Diverged(problem)

    def _log(self, rows: CommandRows) -> None:
        """Adds rows that are new to the step log, and tells the driver where the run is."""
        if rows.num_tokens is None:
            return
        per_step, seconds = self.cell.config.tokens_per_step, max(self.seconds or time.time() - self.started, 1e-3)
        for row in range(self.num_logged, len(rows.loss)):
            loss, tokens = float(rows.loss[row]), float(rows.num_tokens[row])
            step = round(tokens / per_step) if math.isfinite(tokens) else 0
            if math.isfinite(loss) and step > self.last_step:
                self.last_step, told = step, {"loss": loss, "tokens_per_second": tokens / seconds}
                self.metrics.append({"step": step, "num_tokens": int(tokens), **told, "segment": "trunk"})
                self._tell({"trained_tokens": int(tokens), **told})
        self.num_logged = len(rows.loss)

    def _tell(self, progress: Mapping[str, Any]) -> None:
        with replacing(self.home / "progress.json", is_durable=False) as partial:
            partial.write_text(sealed_text(progress))

    def _last_line(self) -> str:
        lines = read_plain(self.output).decode(errors="replace")[-4000:].splitlines()
        last = next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
        return f"{last} (all that it printed: {self.output})"


def _end(group: int, wait: Callable[[float], Any]) -> None:
    """Ends a group of processes: asks, waits, kills. Nothing is left of one whose first process has ended, too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
        wait(LEAVE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    wait(LEAVE_SECONDS)
