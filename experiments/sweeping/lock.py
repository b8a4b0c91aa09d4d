"""The lock of a sweep directory: one driver at a time, on this machine and on others that share the folder.

On one machine a file lock is enough, since the system drops it with the process. Network folders may not have such
locks, so the holder also refreshes a heartbeat; whoever finds it fresh leaves, and one that has stopped is taken over.
"""

import contextlib
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kleiber.files import json_of, read_plain, replacing, sealed_text

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""A heartbeat older than this is that of a driver that is gone."""


class DirectoryLock:
    """Held from `with` to its end."""

    def __init__(self, directory: Path):
        self.directory, self.beat = directory, directory / "sweep.json"
        self.lock = FileLock(directory / "sweep.lock")
        self._closed = threading.Event()
        self.taken_over = ""
        """Whose lock was taken over, if it had been left behind."""

    def __enter__(self) -> "DirectoryLock":
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(self._refusal("a running `kleiber sweep`")) from None
        holder, age = self._holder()
        if holder and not holder.get("released"):
            is_here = holder.get("host") in (None, platform.node())
            if not is_here and age < STALE_SECONDS:
                self.lock.release()
                raise ValueError(self._refusal("a `kleiber sweep` on another machine"))
            self.taken_over = f"{self._name(holder)}, last seen {age:.0f} s ago"
        self.since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._write()
        threading.Thread(target=self._refresh, name="kleiber-heartbeat", daemon=True).start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._write(released=True)
        self.lock.release()

    def _refresh(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self.beat)

    def _write(self, released: bool = False) -> None:
        data = {"pid": os.getpid(), "host": platform.node(), "since": self.since, "released": released}
        with replacing(self.beat, is_durable=False) as partial:
            partial.write_text(sealed_text(data) + "\n")

    def _holder(self) -> tuple[dict[str, Any], float]:
        """Returns (who wrote the heartbeat, its age in seconds by the clock of the folder's own file system).

        One that is damaged may be of another machine: whoever wrote it has the time of a heartbeat to refresh it.
        """
        try:
            text = read_plain(self.beat)
            now = self.directory / f".now.{os.getpid()}"
            now.touch()
            age = now.stat().st_mtime - self.beat.stat().st_mtime
            now.unlink()
        except OSError:
            return {}, 0.0
        try:
            return json_of(text), max(0.0, age)
        except (ValueError, RecursionError):
            return {"host": "?"}, max(0.0, age)

    def _refusal(self, who: str) -> str:
        holder, age = self._holder()
        return (
            f"{self.directory} is locked by {who}: {self._name(holder)}, last seen {age:.0f} s ago. Wait for it or "
            "stop it, then type the same line; or use another --out."
        )

    @staticmethod
    def _name(holder: dict[str, Any]) -> str:
        if "pid" not in holder:
            return "whoever wrote sweep.json, which is damaged (remove it if nothing works there)"
        return f"pid {holder['pid']} on {holder.get('host', '?')} since {holder.get('since', '?')}"


def is_seen(directory: Path) -> bool:
    """Returns whether a lock that another machine holds in the directory holds here too: where a driver lives, its lock
    cannot be had."""
    lock = FileLock(directory / "sweep.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    with contextlib.suppress(OSError):
        before = (directory / "sweep.json").stat().st_mtime_ns
        time.sleep(3 * BEAT_SECONDS)
        return (directory / "sweep.json").stat().st_mtime_ns == before  # that driver is gone
    return True
