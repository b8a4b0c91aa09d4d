"""One command as a process of its own: seconds, processor seconds, and the memory of it and all it started."""

import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

import psutil

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Measurement:
    """What one command took."""

    wall_seconds: float
    cpu_seconds: float
    """User and system time, of its own and of the processes it started and waited for."""
    peak_bytes: int
    """Most resident memory: of the largest process by the kernel's count, or of all at once as seen every 50 ms,
    whichever is more. Pages that two processes share count twice."""
    exit_code: int


def measure_command(
    command: Sequence[str],
    output: Path,
    environment: Mapping[str, str] | None = None,
    is_done: Callable[[], bool] | None = None,
) -> Measurement:
    """Returns what a command took from its start to its end.

    Args:
      command: program and arguments.
      output: file for what it prints (standard output; errors go to the same name with .err).
      environment: in place of this process's.
      is_done: asked every 50 ms; once true, the command is asked to stop (SIGTERM). None lets it run to its end.
    """
    seen = [0]
    with open(output, "wb") as out, open(output.with_suffix(".err"), "wb") as err:
        started = perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process, seen, ended, is_done), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = perf_counter() - started
        ended.set()
        process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for: Popen must not do it again
        watcher.join()
    peak = max(seen[0], usage.ru_maxrss * 1024)
    return Measurement(wall, usage.ru_utime + usage.ru_stime, peak, process.returncode)


def _watch(
    process: subprocess.Popen, seen: list[int], ended: threading.Event, is_done: Callable[[], bool] | None
) -> None:
    """Keeps the largest memory of the process and its descendants, until it has ended."""
    root = psutil.Process(process.pid)
    while not ended.is_set():
        try:
            total = sum(_resident_bytes(each) for each in (root, *root.children(recursive=True)))
        except psutil.NoSuchProcess:
            return
        seen[0] = max(seen[0], total)
        if is_done and is_done():
            root.terminate()
            is_done = None
        sleep(POLL_SECONDS)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
