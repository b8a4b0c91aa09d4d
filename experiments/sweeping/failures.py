"""What went wrong with a worker, in one word and one line: for records, for the log, and for whoever tries again."""

import contextlib
import errno
import platform
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from kleiber.experiments.exit_codes import EXIT_CANNOT_WRITE, EXIT_USAGE
from kleiber.files import read_json, write_json
from kleiber.train.checkpoints.manifest import CannotSave

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRITE_ERRORS = (*NO_SPACE, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO)
"""Of a path that is no file, no folder, or none at all."""
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
    is_full = isinstance(problem, CannotSave) or getattr(problem, "errno", None) in NO_SPACE
    return (
        f"cannot write under {directory}: {what} ({free:,.1f} MB free there). What is saved is kept; "
        f"{'make room' if is_full else 'mend that'}, then type the same line"
    )


def file_problem(problem: OSError, directory: Path) -> tuple[str, int]:
    """Returns what was wrong with a file or folder, with its path, and the exit code: 74 where writing failed and may
    go better another time, 2 where something stands in the way.

    Args:
      problem: with its path, if the system gave one.
      directory: that was worked in.
    """
    path = Path(str(problem.filename)) if problem.filename else None
    if cannot_write(problem):
        return write_problem(problem, path.parent if path else directory), EXIT_CANNOT_WRITE
    what = f"{path or directory}: {problem.strerror or problem}"
    if problem.errno in IN_THE_WAY:
        return f"{what}. Move it out of the way, then type the same line", EXIT_USAGE
    return f"{what}. What is saved is kept; the same line goes on once that is mended", EXIT_CANNOT_WRITE


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


def here(pid: int | str) -> str:
    """Returns the name of a process of this machine, unlike those of every other that shares the directory."""
    return f"{platform.node()}:{pid}"


def beat_of(directory: Path, pid: int | str) -> Path:
    """Returns the file by which a worker of this machine shows its driver that it runs its threads."""
    return directory / "runs" / f".beat-{here(pid)}"


UNEXPLAINED = "its worker died"
"""Until the driver, who sees how processes end, says more."""


class Attempts:
    """The starts of one trunk in one launch of a sweep, and how each ended; kept in its folder.

    The worker on the trunk and the driver, who sees how workers die, both write it, one at a time.
    """

    def __init__(self, folder: Path, session: str):
        self.path, self.session = folder / "attempts.json", session
        self._read()

    def _read(self) -> None:
        try:
            data = read_json(self.path) if self.path.exists() else {}
        except ValueError:  # cut short by a loss of power: only counts are lost
            data = {}
        known = data if data.get("session") == self.session else {}
        self.count: int = known.get("count", 0)
        self.ends: list[dict[str, Any]] = known.get("ends", [])
        self.pid: int | str | None = known.get("pid")

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Reads what others wrote meanwhile, lets the caller change it, and writes it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            self._read()
            yield
            write_json(self.path, {"session": self.session, "count": self.count, "pid": self.pid, "ends": self.ends})

    def start(self, pid: int | str) -> None:
        """Notes that a process takes up the trunk; the one before, if it said nothing, has died."""
        with self._change():
            if self.pid is not None:
                self._add(UNEXPLAINED)
            self.count, self.pid = self.count + 1, pid

    def leave(self, was_stopped: bool = False) -> None:
        """Notes that the process is done with the trunk: how it ends from now on has nothing to do with it. A start
        that was stopped from outside is none of those that count: a job may be preempted again and again."""
        with self._change():
            self.count -= was_stopped
            self.pid = None

    def end(self, reason: str) -> None:
        """Notes how the newest start ended, other than well."""
        with self._change():
            self._add(reason)

    def _add(self, reason: str) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.ends.append({"attempt": self.count, "pid": self.pid, "reason": reason, "at": at})
        self.pid = None

    def explain(self, pid: int | str, reason: str) -> bool:
        """Writes how a process ended, even when another has taken its place already; False if it was never here."""
        if pid not in (self.pid, *(end["pid"] for end in self.ends)):
            return False
        with self._change():
            if self.pid == pid:
                self._add(reason)
                return True
            mine = [end for end in self.ends if end["pid"] == pid and end["reason"] == UNEXPLAINED]
            for end in mine:
                end["reason"] = reason
            return bool(mine)

    def is_exhausted(self) -> bool:
        """Returns whether it has been started as often as it may."""
        return self.count >= MAX_ATTEMPTS

    def summary(self) -> str:
        """Returns every end in one line, those alike once."""
        reasons = [end["reason"] for end in self.ends]
        if len(reasons) > 1 and len(set(reasons)) == 1:
            return f"given up after {self.count} attempts, each {reasons[0]}"
        listed = "; ".join(f"{end['attempt']}. {end['reason']}" for end in self.ends)
        return f"given up after {self.count} attempts: {listed}"


def note_death(directory: Path, session: str, pid: int | str, reason: str) -> str:
    """Writes how a worker ended into the attempts of the trunk it was on, and returns that trunk's folder name."""
    for path in (directory / "runs").glob("*/attempts.json"):
        with contextlib.suppress(OSError):
            if Attempts(path.parent, session).explain(pid, reason):
                return path.parent.name
    return ""
