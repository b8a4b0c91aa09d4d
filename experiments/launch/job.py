"""Jobs of a cluster: each runs kleiber.experiments.sweeping.node, which writes where it runs, what it has to say and
how it ended into jobs/ of the sweep's directory. The cluster's own queue says whether it is still there.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from kleiber.experiments.exit_codes import EXIT_RESUMABLE, EXIT_USAGE
from kleiber.experiments.launch.local import WARNING
from kleiber.files import read_json, read_plain, replacing, sealed_text
from kleiber.parallel.environment import start_seconds

BEAT_SECONDS = 5.0
"""Between signs of life of a job."""
CLOCK_SECONDS = 60.0
"""How far the clocks of two machines may be apart: dates of records and of forecasts come from them."""
LATE_SECONDS = 2 * CLOCK_SECONDS
"""How old a sign may be through a network file system, until the clock that wrote it counts as one that is behind."""
FRESH_SECONDS = 60.0
"""Age of a sign from which on its job counts as gone."""
KILLED = -9


class Queue(Protocol):
    """What a cluster says of its jobs."""

    def state(self, name: str) -> str | None:
        """Returns RUNNING, PENDING or the like; nothing once it has left the queue, None where nobody can be asked."""

    def cancel(self, name: str) -> None:
        """Has it end: by SIGTERM, and some seconds to save."""


def sign_of(directory: Path, name: str) -> Path:
    """Returns the file by which a job shows the driver that it is there."""
    return directory / "jobs" / f"{name}.json"


def is_fresh(sign: Path) -> bool:
    """Returns whether a sign is that of a job that is at work."""
    with contextlib.suppress(OSError, ValueError):
        return read_json(sign, "exit_code")["exit_code"] is None and time.time() - sign.stat().st_mtime < FRESH_SECONDS
    return False


class Sign:
    """What a job writes of itself, where it runs."""

    def __init__(self, directory: Path, name: str, host: str):
        """Shows that the job is there; from entering to leaving, again and again."""
        self.path, self.host, self.began = sign_of(directory, name), host, time.time()
        self.words: list[str] = []
        self.exit_code: int | None = None
        self._lock, self._leave = threading.Lock(), threading.Event()
        self.path.parent.mkdir(exist_ok=True)
        self.write()

    def __enter__(self) -> "Sign":
        threading.Thread(target=self._beat, name="kleiber-sign", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave.set()
        self.write()

    def _beat(self) -> None:
        while not self._leave.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a full disk is reported by whoever must write
                self.write()

    def say(self, line: str) -> None:
        """Has the driver show a line."""
        self.words.append(line)
        self.write()

    def write(self) -> None:
        """Shows that the job is there, or how it has ended."""
        with self._lock, replacing(self.path, is_durable=False) as partial:
            facts = {"host": self.host, "began": self.began, "clock": time.time()}
            partial.write_text(sealed_text({**facts, "exit_code": self.exit_code, "words": self.words}))


class Job:
    """A job as its driver sees it."""

    pid: int | None = None

    def __init__(
        self,
        name: str,
        directory: Path,
        queue: Queue,
        log: str = "",
        on_host: Callable[[str], None] = lambda host: None,
    ):
        """Takes up a job that is in the queue.

        Args:
          name: of the job, in the queue and of its sign.
          directory: of the sweep.
          queue: of the cluster.
          log: pattern of the files that it prints to, below jobs/ of the directory; empty where there are none.
          on_host: called with the host of the job, each time that it has begun there.
        """
        self.log, self.on_host = log, on_host
        self.name, self.directory, self.queue = name, directory, queue
        self.running_since: float | None = None
        self.began, self.num_heard, self.seen_clock, self.lags = 0.0, 0, 0.0, 0
        self.words: list[str] = []
        self.ended: int | None = None

    def poll(self) -> int | None:
        """Returns how it ended, once it has left the queue."""
        if self.ended is None:
            self.ended = self._look()
        return self.ended

    def _look(self) -> int | None:
        state, sign = self.queue.state(self.name), self._sign()
        if sign:
            self._read(sign)
        goes_on = not sign or sign["exit_code"] in (None, EXIT_RESUMABLE)
        if state or (state is None and goes_on):
            return self._waiting(state, sign)
        if sign:
            return KILLED if sign["exit_code"] is None else int(sign["exit_code"])
        has_others = any(self.directory.glob("jobs/*.json"))  # so that the nodes do see the directory
        if not has_others:
            return self._unseen("it has left the queue")
        self.words += [f"it has left no sign; {line}"] if (line := self._last_printed()) else []
        return KILLED

    def _waiting(self, state: str | None, sign: dict[str, Any]) -> int | None:
        """Returns what ends a job that is still in the queue: its node has another disk."""
        if sign or state in (None, "PENDING"):
            return None
        self.running_since = self.running_since or time.monotonic()
        if time.monotonic() - self.running_since < start_seconds():
            return None
        return self._unseen(f"it is {state}")

    def _unseen(self, what: str) -> int:
        printed = self._last_printed()
        shared = "do the nodes of this cluster see that directory? Use an --out on a file system that all of them share"
        if self.log and not printed:
            shared = f"no log {self.log} there, either: {shared}"
        self.words.append(
            f"job {self.name} has left no sign in {self.directory / 'jobs'}, and {what}: {printed or shared}"
        )
        return EXIT_USAGE

    def _last_printed(self) -> str:
        """Returns which file holds what the job has printed, with the last line of it but for those of srun,
        which know an exit code alone; nothing where no such file is seen.
        """
        for path in sorted((self.directory / "jobs").glob(self.log), reverse=True) if self.log else ():
            with contextlib.suppress(OSError, ValueError):
                lines = [line.strip()[:300] for line in read_plain(path).decode(errors="replace").splitlines()]
                told = [line for line in lines if line and not line.startswith("srun: ")]
                last = next(iter(told[-1:] or [line for line in lines if line][-1:]), "")
                return f"its log {path} ends with: {last}" if last else f"its log {path} is empty"
        return ""

    def _sign(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):  # not there yet, or another machine is writing it
            return read_json(sign_of(self.directory, self.name), "host", "began", "clock", "exit_code", "words")
        return {}

    def _read(self, sign: dict[str, Any]) -> None:
        """Takes what is new in its sign, and compares its clock with this one."""
        words = list(sign["words"])
        if sign["began"] != self.began:  # it was preempted, and started again
            self.began, self.num_heard = sign["began"], 0
            if sign["exit_code"] is None:
                self.on_host(sign["host"])
        self.words += words[self.num_heard :]
        self.num_heard = len(words)
        if sign["clock"] == self.seen_clock or self.lags < 0:
            return
        self.seen_clock, behind = sign["clock"], time.time() - sign["clock"]
        self.lags += 1
        if behind < -CLOCK_SECONDS or (behind > LATE_SECONDS and self.lags > 1):  # the first may be an old one
            self.lags = -1
            self.words.append(
                f"{WARNING}the clock of {sign['host']} is {abs(behind):.0f} s {'behind' if behind > 0 else 'ahead of'} "
                "this one: set both by one time server; dates of records and forecasts come from them"
            )

    def heard(self) -> list[str]:
        """Returns what it has said since it was last listened to."""
        words, self.words = self.words, []
        return words

    def terminate(self) -> None:
        """Has the cluster stop it."""
        if self.poll() is None:
            self.queue.cancel(self.name)

    def kill(self) -> None:
        """Leaves it to its cluster, which kills what does not end."""

    def close(self) -> None:
        """Leaves its sign, for whoever asks where a run was trained."""
