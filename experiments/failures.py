"""What went wrong with a worker, in one word and one line: for records, for the log, and for whoever tries again."""

import contextlib
import errno
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from kleiber.experiments.errors import EXIT_CANNOT_WRITE
from kleiber.experiments.record import read_json, write_json
from kleiber.train.manifest import CannotSave

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
MAX_ATTEMPTS = 3
"""Times a trunk is started in one launch of a sweep before it counts as failed."""


def is_out_of_memory(problem: BaseException) -> bool:
    """Returns whether an exception says that memory ran out, in Python's words or in XLA's."""
    text = str(problem)
    return isinstance(problem, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text


def is_lost_peer(problem: BaseException) -> bool:
    """Returns whether an exception of a run on several processes says that one of the others is gone.

    JAX raises it as ValueError or RuntimeError, depending on the collective; the status code comes first.
    """
    codes = ("UNKNOWN", "UNAVAILABLE", "ABORTED", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED", "FAILED_PRECONDITION")
    words = ("Gloo", "NCCL", "onnection", "heartbeat", "coordination", "barrier", "peer")
    text = str(problem)
    return text.startswith(codes) and any(word in text for word in words)


def cannot_write(problem: BaseException) -> bool:
    """Returns whether an exception says that a file could not be written."""
    if isinstance(problem, FileNotFoundError) and not Path(str(problem.filename or "/")).parent.exists():
        return True  # the directory went away under a running sweep
    return isinstance(problem, CannotSave) or (isinstance(problem, OSError) and problem.errno in WRITE_ERRORS)


def write_problem(problem: BaseException, directory: Path) -> str:
    """Returns what could not be written, how much space there is, and what to do."""
    place = next((p for p in (directory, *directory.absolute().parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(place).free / 1e6
    what = str(problem).rstrip(".")
    return (
        f"cannot write under {directory}: {what} ({free:,.1f} MB free there). What is saved is kept; make room, then "
        "type the same line"
    )


def exit_reason(code: int) -> str:
    """Returns how a worker process ended, by its exit code as subprocess gives it."""
    if code == EXIT_CANNOT_WRITE:
        return "could not write"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = {
        "SIGKILL": ": by hand, or by the system for lack of memory",
        "SIGABRT": ": a library gave up, often for lack of memory",
    }
    return f"killed by {name}{hint.get(name, '')}"


class Attempts:
    """The starts of one trunk in one launch of a sweep, and how each ended; kept in its folder."""

    def __init__(self, folder: Path, session: str):
        self.path, self.session = folder / "attempts.json", session
        try:
            data = read_json(self.path) if self.path.exists() else {}
        except ValueError:  # cut short by a loss of power: only counts are lost
            data = {}
        known = data if data.get("session") == session else {}
        self.count: int = known.get("count", 0)
        self.ends: list[dict[str, Any]] = known.get("ends", [])
        self.pid: int | None = known.get("pid")

    def start(self, pid: int) -> None:
        """Notes that a process takes up the trunk; the one before, if it said nothing, has died."""
        if self.pid is not None:
            self._add("its worker died")
        self.count, self.pid = self.count + 1, pid
        self._write()

    def end(self, reason: str) -> None:
        """Notes how the newest start ended, other than well."""
        self._add(reason)
        self.pid = None
        self._write()

    def _add(self, reason: str) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.ends.append({"attempt": self.count, "pid": self.pid, "reason": reason, "at": at})

    def explain(self, pid: int, reason: str) -> bool:
        """Writes how a process ended, even when another has taken its place already; False if it was never here."""
        if self.pid == pid:
            self.end(reason)
            return True
        mine = [end for end in self.ends if end["pid"] == pid]
        for end in mine:
            end["reason"] = reason
        if mine:
            self._write()
        return bool(mine)

    def is_exhausted(self) -> bool:
        """Returns whether it has been started as often as it may."""
        return self.count >= MAX_ATTEMPTS

    def summary(self) -> str:
        """Returns every end in one line."""
        return f"given up after {self.count} attempts: " + "; ".join(
            f"{end['attempt']}. {end['reason']}" for end in self.ends
        )

    def _write(self) -> None:
        write_json(self.path, {"session": self.session, "count": self.count, "pid": self.pid, "ends": self.ends})


def note_death(directory: Path, session: str, pid: int, reason: str) -> str:
    """Writes how a worker ended into the attempts of the trunk it was on, and returns that trunk's folder name."""
    for path in (directory / "runs").glob("*/attempts.json"):
        with contextlib.suppress(OSError):
            if Attempts(path.parent, session).explain(pid, reason):
                return path.parent.name
    return ""
