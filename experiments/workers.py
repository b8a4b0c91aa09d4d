"""Local worker processes of a sweep: start, watch, restart when killed, stop."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from kleiber.experiments.errors import EXIT_DONE, EXIT_RESUMABLE

MAX_RESTARTS = 10
"""Workers started again over one phase before the driver gives up."""
STOP_SECONDS = 20.0
"""Time a worker has to save and leave before it is killed."""


@dataclass
class WorkerPool:
    """The workers of one phase (split) of a sweep."""

    directory: Path
    split: str
    num_workers: int
    session: str
    log: IO[str]
    processes: dict[int, subprocess.Popen] = field(default_factory=dict)
    restarts: int = 0

    def run(self, on_tick: Callable[[], None]) -> int:
        """Starts the workers, calls on_tick about twice a second, and returns 0 when all work is done, 75 if stopped.

        A worker that dies by a signal is started again; it takes up the trunk from its checkpoint.
        """
        for index in range(self.num_workers):
            self._start(index)
        try:
            return self._watch(on_tick)
        finally:
            self.stop()

    def _watch(self, on_tick: Callable[[], None]) -> int:
        while self.processes:
            time.sleep(0.4)
            on_tick()
            for index, process in list(self.processes.items()):
                code = process.poll()
                if code is None:
                    continue
                del self.processes[index]
                if code == EXIT_DONE:
                    continue
                if code == EXIT_RESUMABLE:
                    return EXIT_RESUMABLE
                self.log.write(f"worker {index} ended with code {code}; starting it again\n")
                self.restarts += 1
                if self.restarts > MAX_RESTARTS:
                    self.log.write(f"{self.restarts} workers died in this phase: giving up; see the lines above\n")
                    return EXIT_RESUMABLE
                self._start(index)
        return EXIT_DONE

    def _start(self, index: int) -> None:
        command = [sys.executable, "-m", "kleiber.experiments.worker", str(self.directory), self.split]
        self.log.flush()
        self.processes[index] = subprocess.Popen(
            [*command, str(index), self.session],
            stdout=self.log,
            stderr=self.log,
            env=worker_environment(),
            start_new_session=True,  # Ctrl-C reaches the driver, which then asks the workers to save
        )

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
        self.processes.clear()


def worker_environment() -> dict[str, str]:
    """Returns the environment of a worker: one thread on CPU, a persistent compilation cache."""
    from kleiber.train.data.cache import cache_folder

    environment = dict(os.environ)
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, "1")
    flags = environment.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        environment["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return environment
