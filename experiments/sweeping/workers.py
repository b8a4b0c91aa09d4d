"""The workers of a phase: started by its launchers, watched, started again when one dies, stopped."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kleiber.experiments.exit_codes import (
    EXIT_CANNOT_WRITE,
    EXIT_DONE,
    EXIT_GATE,
    EXIT_OUT_OF_MEMORY,
    EXIT_RESUMABLE,
    EXIT_USAGE,
)
from kleiber.experiments.launch.launcher import Launcher, Phase, Worker
from kleiber.experiments.launch.local import WARNING, Local
from kleiber.experiments.sweeping.failures import MAX_ATTEMPTS, beat_of, exit_reason, here, note_death
from kleiber.files import read_plain
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.environment import num_cores, process_in_environment, runs_on_cpu
from kleiber.train.config import TrainConfig
from kleiber.train.watch.watchdog import hang_seconds

MAX_RESTARTS = 10
"""Workers that may die in one phase before the driver gives up, on top of the attempts that each trunk has."""
STOP_SECONDS = 20.0
"""Time a worker has to save and leave before it is killed."""
EQUAL_DEATHS = 3
"""Workers that may end alike, one after the other and before they take up a run, before the driver gives up."""


@dataclass
class WorkerPool:
    """The workers of one phase (split) of a sweep."""

    phase: Phase
    say: Callable[[str], None]
    """Shows a line to the user, and logs it."""
    launchers: Sequence[Launcher] = (Local(),)
    deadline: float | None = None
    """time.monotonic() at which the phase is stopped and saved."""
    is_over: Callable[[], bool] = lambda: False
    """Whether nothing is left to do: asked when a job has ended well, for another may wait for its turn in vain."""
    is_hopeless: Callable[[], str] = lambda: ""
    """Why nothing more is to be started; empty while there is no reason."""
    workers: dict[int, Worker] = field(default_factory=dict)
    restarts: int = 0
    messages: list[str] = field(default_factory=list)
    """Why the phase ended early."""
    _started_by: dict[int, Launcher] = field(default_factory=dict)
    _deaths: list[str] = field(default_factory=list)
    """How the last workers ended that had not taken up a run."""
    _words: dict[int, list[str]] = field(default_factory=dict)
    """What each worker said of why it cannot go on."""
    _beats: dict[int, tuple[int, float]] = field(default_factory=dict)
    _frozen: set[int] = field(default_factory=set)

    def run(self, on_tick: Callable[[], None]) -> int:
        """Starts the workers, calls on_tick about twice a second, and returns 0 when all work is done, 75 if stopped,
        74 if a worker could not write, 2 or 3 if none can work, or it is of no use.

        A worker that dies, hangs or freezes is started again; it takes up the trunk from its checkpoint.
        """
        for beat in (self.phase.directory / "runs").glob(beat_of(self.phase.directory, "*").name):
            beat.unlink(missing_ok=True)  # of workers of this machine that were killed with their driver
        try:
            for launcher in self.launchers:
                first = len(self._started_by)
                self._start(launcher, range(first, first + launcher.num_workers(self.phase.num_trunks)))
            return self._watch(on_tick)
        finally:
            self.stop()

    def _watch(self, on_tick: Callable[[], None]) -> int:
        directory = self.phase.directory
        while self.workers:
            time.sleep(0.2)
            for index in self.workers:
                self._hear(index)
            on_tick()
            if not (directory / "experiment.json").exists():
                self.messages.append(f"cannot write under {directory}: it was moved or removed")
                return EXIT_CANNOT_WRITE
            if reason := self.is_hopeless():
                self.messages.append(reason)
                return EXIT_GATE
            if self.deadline is not None and time.monotonic() > self.deadline:
                self.messages.append("the time limit is reached")
                return EXIT_RESUMABLE
            for index, worker in list(self.workers.items()):
                code = worker.poll()
                if code is None:
                    self._end_if_frozen(worker)
                    continue
                self._forget(index)
                if code == EXIT_DONE and worker.pid is None and self.is_over():
                    return EXIT_DONE
                if code == EXIT_DONE:
                    continue
                words = self._words.pop(index, [])
                if code in (EXIT_RESUMABLE, EXIT_CANNOT_WRITE, EXIT_USAGE) and not self._goes_better(worker, code):
                    self.messages += words
                    return code
                if (code := self._restart(index, worker, code, "; ".join(words))) != EXIT_DONE:
                    return code
        return EXIT_DONE

    def _goes_better(self, worker: Worker, code: int) -> bool:
        """Returns whether another worker may go on where one left: it was ended by its watchdog, or is a job that its
        cluster has stopped."""
        return code == EXIT_RESUMABLE and (worker.pid is None or self._was_hung(worker.pid))

    def _restart(self, index: int, worker: Worker, code: int, words: str) -> int:
        """Starts a worker in place of one that died, and notes why; returns 75 when too many have, 3 when they die
        alike before they take up a run: the next would, too."""
        pid, trunk = worker.pid, ""
        reason = "hung: no progress (see stacks.txt)" if code == EXIT_RESUMABLE else exit_reason(code)
        if pid in self._frozen:
            reason = "frozen: its heartbeat had stopped"
        if code == EXIT_OUT_OF_MEMORY:  # noted by the worker itself
            reason = "out of memory"
        elif pid is not None:
            trunk = note_death(self.phase.directory, self.phase.session, here(pid), reason)
        elif code == EXIT_RESUMABLE:
            reason = "was stopped by its cluster"
        if words or (code > 0 and not trunk and code not in (EXIT_OUT_OF_MEMORY, EXIT_RESUMABLE)):
            reason = f"{reason}: {words or self._last_logged()}"
        if not trunk and code not in (EXIT_OUT_OF_MEMORY, EXIT_RESUMABLE, -signal.SIGKILL):  # those may go better
            self._deaths = [death for death in self._deaths if death == reason] + [reason]
        if len(self._deaths) == EQUAL_DEATHS:
            self.messages.append(f"{EQUAL_DEATHS} workers in a row, before they took up a run, {reason}")
            return EXIT_GATE
        self.say(f"worker {index} ({worker.name}) {reason}{' on ' + trunk if trunk else ''}; starting it again")
        self.restarts += 1
        if self.restarts > MAX_RESTARTS + MAX_ATTEMPTS * self.phase.num_trunks:
            self.messages.append(f"{self.restarts} workers died in this phase, the last {reason}: giving up for now")
            return EXIT_RESUMABLE
        self._start(self._started_by[index], [index])
        return EXIT_DONE

    def _last_logged(self) -> str:
        """Returns the last line of the log, which is that of the traceback of a worker that said nothing else."""
        with contextlib.suppress(OSError):
            lines = read_plain(Path(self.phase.log.name)).decode(errors="replace")[-5000:].splitlines()
            return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
        return ""

    def _was_hung(self, pid: int) -> bool:
        """Returns whether a worker was ended by its watchdog: it left stacks behind, and nobody asked it to stop."""
        stacks = (path.parent / "stacks.txt" for path in (self.phase.directory / "runs").glob("*/attempts.json"))
        return any(f"of process {pid}:" in s.read_text(errors="replace")[:500] for s in stacks if s.is_file())

    def _end_if_frozen(self, worker: Worker) -> None:
        """Kills a worker whose threads no longer run (stopped, or stuck in the kernel), so that another takes over."""
        if worker.pid is None:
            return
        try:
            last = beat_of(self.phase.directory, worker.pid).stat().st_mtime_ns
        except OSError:
            return
        seen, since = self._beats.get(worker.pid, (0, 0.0))
        if last != seen:
            self._beats[worker.pid] = (last, time.monotonic())
        elif time.monotonic() - since > hang_seconds():
            self._frozen.add(worker.pid)
            worker.kill()

    def _forget(self, index: int) -> None:
        self._hear(index)
        worker = self.workers.pop(index)
        if worker.pid is not None:
            beat_of(self.phase.directory, worker.pid).unlink(missing_ok=True)
        worker.close()

    def _hear(self, index: int) -> None:
        """Takes what a worker has to say: warnings are shown at once, the rest is why it cannot go on."""
        for line in self.workers[index].heard():
            if line.startswith(WARNING):
                self.say(line)
            else:
                self._words.setdefault(index, []).append(line)

    def _start(self, launcher: Launcher, indices: Sequence[int]) -> None:
        for index, worker in zip(indices, launcher.start(self.phase, indices), strict=True):
            self.workers[index], self._started_by[index] = worker, launcher

    def stop(self) -> None:
        """Asks every worker to save and leave; after STOP_SECONDS kills those that have not."""
        for worker in self.workers.values():
            worker.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while any(worker.poll() is None for worker in self.workers.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for index, worker in list(self.workers.items()):
            if worker.poll() is None:
                worker.kill()
            self._forget(index)


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
