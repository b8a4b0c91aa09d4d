"""Local worker processes of a sweep: start, watch, restart when killed, stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from kleiber.experiments.exit_codes import (
    EXIT_CANNOT_WRITE,
    EXIT_DONE,
    EXIT_GATE,
    EXIT_OUT_OF_MEMORY,
    EXIT_RESUMABLE,
    EXIT_USAGE,
)
from kleiber.experiments.sweeping.failures import MAX_ATTEMPTS, exit_reason, note_death
from kleiber.files import read_plain
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.environment import has_accelerator, num_cores, process_in_environment, runs_on_cpu
from kleiber.train.config import TrainConfig
from kleiber.train.watch.watchdog import hang_seconds

MAX_RESTARTS = 10
"""Workers that may die in one phase before the driver gives up, on top of the attempts that each trunk has."""
STOP_SECONDS = 20.0
"""Time a worker has to save and leave before it is killed."""

DRIVER_PIPE = "KLEIBER_DRIVER_PIPE"
"""The variable with the pipe by which a worker speaks to its driver."""
EQUAL_DEATHS = 3
"""Workers that may end alike, one after the other and before they take up a run, before the driver gives up."""
WARNING = "warning: "
"""How a line of a worker begins that the user should see while the work goes on."""


@dataclass
class WorkerPool:
    """The workers of one phase (split) of a sweep."""

    directory: Path
    split: str
    num_workers: int
    session: str
    log: IO[str]
    """Takes what workers write."""
    say: Callable[[str], None]
    """Shows a line to the user, and logs it."""
    num_trunks: int = 1
    num_devices: int = 1
    """That each worker needs."""
    deadline: float | None = None
    """time.monotonic() at which the phase is stopped and saved."""
    processes: dict[int, subprocess.Popen] = field(default_factory=dict)
    pipes: dict[int, int] = field(default_factory=dict)
    restarts: int = 0
    messages: list[str] = field(default_factory=list)
    """Why the phase ended early."""
    _deaths: list[str] = field(default_factory=list)
    """How the last workers ended that had not taken up a run."""
    _words: dict[int, list[str]] = field(default_factory=dict)
    """What each worker said of why it cannot go on."""
    _beats: dict[int, tuple[int, float]] = field(default_factory=dict)
    _frozen: set[int] = field(default_factory=set)

    def run(self, on_tick: Callable[[], None]) -> int:
        """Starts the workers, calls on_tick about twice a second, and returns 0 when all work is done, 75 if stopped,
        74 if a worker could not write, 2 or 3 if none can work.

        A worker that dies, hangs or freezes is started again; it takes up the trunk from its checkpoint.
        """
        for beat in (self.directory / "runs").glob(".beat-*"):  # of workers that were killed with their driver
            beat.unlink(missing_ok=True)
        for index in range(self.num_workers):
            self._start(index)
        try:
            return self._watch(on_tick)
        finally:
            self.stop()

    def _watch(self, on_tick: Callable[[], None]) -> int:
        while self.processes:
            time.sleep(0.2)
            for index in self.pipes:
                self._hear(index)
            on_tick()
            if not (self.directory / "experiment.json").exists():
                self.messages.append(f"cannot write under {self.directory}: it was moved or removed")
                return EXIT_CANNOT_WRITE
            if self.deadline is not None and time.monotonic() > self.deadline:
                self.messages.append("the time limit is reached")
                return EXIT_RESUMABLE
            for index, process in list(self.processes.items()):
                code = process.poll()
                if code is None:
                    self._end_if_frozen(process)
                    continue
                self._forget(index)
                if code == EXIT_DONE:
                    continue
                words = self._words.pop(index, [])
                if code in (EXIT_RESUMABLE, EXIT_CANNOT_WRITE, EXIT_USAGE) and not self._was_hung(process.pid):
                    self.messages += words
                    return code
                if (code := self._restart(index, process.pid, code, "; ".join(words))) != EXIT_DONE:
                    return code
        return EXIT_DONE

    def _restart(self, index: int, pid: int, code: int, words: str) -> int:
        """Starts a worker in place of one that died, and notes why; returns 75 when too many have, 3 when they die
        alike before they take up a run: the next would, too."""
        reason = "hung: no progress (see stacks.txt)" if code == EXIT_RESUMABLE else exit_reason(code)
        if pid in self._frozen:
            reason = "frozen: its heartbeat had stopped"
        if code != EXIT_OUT_OF_MEMORY:  # that one was noted by the worker itself
            trunk = note_death(self.directory, self.session, pid, reason)
        else:
            trunk, reason = "", "out of memory"
        if words or (code > 0 and not trunk and code != EXIT_OUT_OF_MEMORY):
            reason = f"{reason}: {words or self._last_logged()}"
        if not trunk and code not in (EXIT_OUT_OF_MEMORY, -signal.SIGKILL):  # those may go better another time
            self._deaths = [death for death in self._deaths if death == reason] + [reason]
        if len(self._deaths) == EQUAL_DEATHS:
            self.messages.append(f"{EQUAL_DEATHS} workers in a row, before they took up a run, {reason}")
            return EXIT_GATE
        self.say(f"worker {index} (pid {pid}) {reason}{' on ' + trunk if trunk else ''}; starting it again")
        self.restarts += 1
        if self.restarts > MAX_RESTARTS + MAX_ATTEMPTS * self.num_trunks:
            self.messages.append(f"{self.restarts} workers died in this phase, the last {reason}: giving up for now")
            return EXIT_RESUMABLE
        self._start(index)
        return EXIT_DONE

    def _last_logged(self) -> str:
        """Returns the last line of the log, which is that of the traceback of a worker that said nothing else."""
        with contextlib.suppress(OSError):
            lines = read_plain(Path(self.log.name)).decode(errors="replace")[-5000:].splitlines()
            return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
        return ""

    def _was_hung(self, pid: int) -> bool:
        """Returns whether a worker was ended by its watchdog: it left stacks behind, and nobody asked it to stop."""
        stacks = (path.parent / "stacks.txt" for path in (self.directory / "runs").glob("*/attempts.json"))
        return any(f"of process {pid}:" in s.read_text(errors="replace")[:500] for s in stacks if s.is_file())

    def _end_if_frozen(self, process: subprocess.Popen) -> None:
        """Kills a worker whose threads no longer run (stopped, or stuck in the kernel), so that another takes over."""
        beat = self.directory / "runs" / f".beat-{process.pid}"
        try:
            last = beat.stat().st_mtime_ns
        except OSError:
            return
        seen, since = self._beats.get(process.pid, (0, 0.0))
        if last != seen:
            self._beats[process.pid] = (last, time.monotonic())
        elif time.monotonic() - since > hang_seconds():
            self._frozen.add(process.pid)
            process.kill()

    def _forget(self, index: int) -> None:
        process = self.processes.pop(index)
        (self.directory / "runs" / f".beat-{process.pid}").unlink(missing_ok=True)
        self._hear(index)
        os.close(self.pipes.pop(index))

    def _hear(self, index: int) -> None:
        """Takes what a worker has to say: warnings are shown at once, the rest is why it cannot go on."""
        for line in heard(self.pipes[index]):
            if line.startswith(WARNING):
                self.say(line)
            else:
                self._words.setdefault(index, []).append(line)

    def _start(self, index: int) -> None:
        with contextlib.suppress(OSError):
            self.log.flush()
        arguments = [str(self.directory), self.split, str(index), self.session]
        self.processes[index], self.pipes[index] = start_worker(arguments, self.log, self.num_devices)

    def stop(self) -> None:
        """Asks every worker to save and leave; after STOP_SECONDS kills those that have not."""
        for process in self.processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for index in list(self.processes):
            self._forget(index)


def start_worker(
    arguments: list[str], log: IO[str], num_devices: int, variables: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen, int]:
    """Starts a worker, and returns its process and the pipe by which it speaks.

    Args:
      arguments: of kleiber.experiments.sweeping.worker.
      log: takes what it prints.
      num_devices: that it needs.
      variables: of its environment, besides those of worker_environment.
    """
    read, write = os.pipe()
    os.set_blocking(read, False)
    process = subprocess.Popen(
        [sys.executable, "-m", "kleiber.experiments.sweeping.worker", *arguments],
        stdout=log,
        stderr=log,
        env={**worker_environment(num_devices), DRIVER_PIPE: str(write), **(variables or {})},
        pass_fds=(write,),
        start_new_session=True,  # Ctrl-C reaches the driver, which then asks the workers to save
    )
    os.close(write)
    return process, read


def heard(pipe: int) -> list[str]:
    """Returns the lines that a worker has said since it was last listened to."""
    with contextlib.suppress(BlockingIOError):
        return os.read(pipe, 65_536).decode(errors="replace").splitlines()
    return []


def num_devices(configs: Iterable[TrainConfig]) -> int:
    """Returns the devices that the largest mesh of some runs needs from each process."""
    return -(-max(config.mesh.num_devices for config in configs) // process_in_environment()[1])


def default_workers(configs: Sequence[TrainConfig]) -> int:
    """Returns one worker for each core on CPU, and one in all for runs that share devices: meshes and accelerators."""
    if process_in_environment()[1] > 1 or num_devices(configs) > 1 or not runs_on_cpu():
        return 1
    return max(1, num_cores() // max(config.command.num_cores if config.command else 1 for config in configs))


def idle_cores_hint(config: TrainConfig) -> str:
    """Returns the line that tells whoever trains one run how to use the cores it leaves idle, or nothing.

    Args:
      config: of the run; a mesh of one CPU device works on one core.
    """
    if config.mesh.num_devices > 1 or process_in_environment()[1] > 1 or not runs_on_cpu() or config.command:
        return ""
    for count in range(num_cores(), 1, -1):
        with contextlib.suppress(ValueError):  # the config knows which meshes divide it
            replace(config, mesh=MeshConfig(data=count))
            return f"1 of {num_cores()} cores trains this run; --set mesh.data={count} shares its batch among {count}"
    return ""


def worker_environment(num_devices: int = 1) -> dict[str, str]:
    """Returns the environment of a worker: one thread on CPU, a persistent compilation cache.

    Args:
      num_devices: that the worker needs; where there are only CPUs, so many are simulated.
    """
    from kleiber.train.data.cache import cache_folder

    environment = dict(os.environ)
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not has_accelerator():  # an installed libtpu, there for `kleiber compile`, would look for its chips
        environment.setdefault("JAX_PLATFORMS", "cpu")
    if num_devices > 1:
        environment.setdefault("JAX_NUM_CPU_DEVICES", str(num_devices))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, "1")
    flags = environment.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        environment["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return environment
