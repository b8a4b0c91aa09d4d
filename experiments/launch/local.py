"""Workers that are processes of this machine."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kleiber.experiments.launch.launcher import Phase, whole_number
from kleiber.parallel.environment import has_accelerator

DRIVER_PIPE = "KLEIBER_DRIVER_PIPE"
"""The variable with the pipe by which a worker speaks to its driver."""
IDLE_SECONDS = "KLEIBER_IDLE_SECONDS"
"""The variable with the seconds after which a worker leaves while others have all that is left; without it never."""
WARNING = "warning: "
"""How a line of a worker begins that the user should see while the work goes on."""


@dataclass(frozen=True)
class Local:
    """Starts processes here."""

    workers: int = 1
    first_core: int = 0
    """That the first worker keeps to, where each has one."""

    def check(self, directory: Path) -> None:
        """Finds nothing: whoever asks runs here."""

    def num_workers(self, num_trunks: int) -> int:
        """Returns one for each trunk, and no more than it may start."""
        return min(self.workers, num_trunks)

    def start(self, phase: Phase, indices: Sequence[int]) -> list["LocalWorker"]:
        """Starts a process for each index."""
        with contextlib.suppress(OSError):
            phase.log.flush()
        return [self._start(phase, index) for index in indices]

    def _start(self, phase: Phase, index: int) -> "LocalWorker":
        arguments = [str(phase.directory), phase.split, str(self.first_core + index), phase.session]
        return LocalWorker(*start_worker(arguments, phase.log, phase.num_devices))


def launcher(options: dict[str, str], workers: int | None) -> Local:
    """Returns the launcher of this machine; `workers=3` is all that it takes."""
    from kleiber.parallel.environment import num_cores

    local = Local(whole_number(options, "workers", workers) or num_cores())
    if options:
        raise ValueError(f"--launch local takes workers=NUMBER alone, not {', '.join(options)}.")
    return local


class LocalWorker:
    """A process, and the pipe by which it speaks."""

    def __init__(self, process: subprocess.Popen, pipe: int):
        self.process, self.pipe = process, pipe
        self.pid: int | None = process.pid
        self.name = f"pid {process.pid}"
        self.poll, self.terminate = process.poll, process.terminate

    def heard(self) -> list[str]:
        """Returns what is in its pipe."""
        return heard(self.pipe)

    def kill(self) -> None:
        """Ends it and waits until it has."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Closes the pipe."""
        os.close(self.pipe)


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
