"""Workers in tasks of Ray: `ray:address=auto,jobs=4,cpus=1,gpus=0`. Ray starts a task again elsewhere when its node is
lost; tasks end with the driver, and the same line starts others.
"""

import contextlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kleiber.experiments.arguments import count
from kleiber.experiments.launch.job import Job
from kleiber.experiments.launch.launcher import Phase, whole_number

RETRIES = 10
"""Times that Ray starts a task again whose node was lost."""
STOP_SECONDS = 15.0


def launcher(options: dict[str, str], workers: int | None) -> "Ray":
    """Returns the launcher of the options of --launch."""
    jobs, address = whole_number(options, "jobs"), options.pop("address", "auto")
    resources = {f"num_{name}": count(options.pop(name)) for name in ("cpus", "gpus") if name in options}
    if options:
        raise ValueError(f"--launch ray takes address, jobs, cpus and gpus, not {', '.join(options)}.")
    return Ray(address, jobs, workers, resources)


@dataclass
class Ray:
    """Starts tasks of Ray."""

    address: str
    jobs: int | None
    workers: int | None
    resources: dict[str, float]
    """Of each task: num_cpus, num_gpus."""
    _tasks: dict[str, Any] = field(default_factory=dict)

    def check(self, directory: Path) -> None:
        """Raises ValueError where Ray is missing, or no cluster answers."""
        if importlib.util.find_spec("ray") is None:
            raise ValueError("--launch ray needs Ray: pip install 'kleiber[ray]'.")
        import ray

        try:
            ray.init(self.address, ignore_reinit_error=True, log_to_driver=False, configure_logging=False)
        except ConnectionError as problem:
            raise ValueError(
                f"--launch ray: no cluster at {self.address} ({problem}); `ray start --head` makes one."
            ) from None

    def num_workers(self, num_trunks: int) -> int:
        """Returns the tasks of a phase."""
        return min(self.jobs or num_trunks, num_trunks)

    def start(self, phase: Phase, indices: Sequence[int]) -> list[Job]:
        """Starts a task for each index."""
        import ray

        task = ray.remote(max_retries=RETRIES, **self.resources)(on_node)
        names = [f"ray-{phase.session}-{len(self._tasks) + place}" for place in range(len(indices))]
        for name in names:
            self._tasks[name] = task.remote(name, phase.arguments(self.workers))
        return [Job(name, phase.directory, self) for name in names]

    def state(self, name: str) -> str:
        """Returns PENDING, for a task waits and works alike; nothing once it has ended."""
        import ray

        return "" if ray.wait([self._tasks[name]], timeout=0)[0] else "PENDING"

    def cancel(self, name: str) -> None:
        """Has its task interrupted, which then saves."""
        import ray

        ray.cancel(self._tasks[name])


def on_node(name: str, arguments: list[str]) -> int:
    """Runs the workers of a node in a process of their own, as a task of Ray, and returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kleiber.experiments.sweeping.node", f"--name={name}", *arguments]
    )
    try:
        while process.poll() is None:
            time.sleep(0.2)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    return process.returncode
