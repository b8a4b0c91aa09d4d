"""Workers in jobs of Slurm, submitted as an array by submitit. Slurm's own queue says which there are, so that a driver
that was killed finds them again by their name.

`slurm:partition=debug,time=60,jobs=8,container=IMAGE,...`: time is in minutes; container=IMAGE is one of pyxis, and
apptainer=IMAGE one of Apptainer; what else stands there goes to sbatch as
it is (account=..., gpus-per-node=1, cpus-per-task=4, requeue=no).
"""

import contextlib
import functools
import getpass
import hashlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kleiber.experiments.launch.job import Job
from kleiber.experiments.launch.launcher import Phase, whole_number
from kleiber.parallel.environment import seconds_in_environment

SIGNAL_SECONDS = 90
"""Before a time limit, a job is told to save and goes back to the queue."""
SHORTEST_MINUTES = 3
"""Of a job: half of it is that signal, and the rest is left to start, train a little and save."""
MANY = 1_000_000
"""Time limits that a job may meet: it goes on from its checkpoints after each."""


def launcher(options: dict[str, str], workers: int | None) -> "Slurm":
    """Returns the launcher of the options of --launch."""
    minutes, nodes = whole_number(options, "time", 60), whole_number(options, "nodes", 1)
    jobs = whole_number(options, "jobs", 1 if nodes != 1 else None)
    images: dict[str, str] = {kind: options.pop(kind) for kind in ("container", "apptainer") if kind in options}
    assert minutes and nodes
    if minutes < SHORTEST_MINUTES:
        raise ValueError(
            f"--launch slurm: time={minutes}, expected at least {SHORTEST_MINUTES} minutes: a job saves "
            f"{SIGNAL_SECONDS} seconds before its end, and has to start and train a while ahead of that."
        )
    if len(images) > 1:
        raise ValueError("--launch slurm: container= is an image of pyxis and apptainer= one of Apptainer: give one.")
    if nodes > 1 and jobs != 1:
        raise ValueError(
            f"--launch slurm: nodes={nodes} train one run together, in one job at a time, not jobs={jobs}."
        )
    return Slurm(
        minutes,
        nodes,
        jobs,
        1 if nodes > 1 else workers,
        images,
        {name.replace("_", "-"): value for name, value in options.items()},
    )


@dataclass
class Slurm:
    """Starts jobs of Slurm."""

    minutes: int
    nodes: int
    """Of each job: several train one run together."""
    jobs: int | None
    workers: int | None
    images: dict[str, str]
    """Of a container, by its kind."""
    options: dict[str, str]
    """Of sbatch."""
    _states: dict[str, str] = field(default_factory=dict)
    _looked: float = 0.0
    _name: str = ""
    """Of the jobs of a phase, but for what tells their options."""
    _outdated: list[str] = field(default_factory=list)
    _others: list[str] = field(default_factory=list)
    """Jobs of this phase that an earlier line has submitted with other options."""
    _known: set[str] = field(default_factory=set)
    _name_seen: str = ""

    def check(self, directory: Path) -> None:
        """Raises ValueError where submitit or Slurm is missing, or Slurm does not take such a job."""
        look_seconds()
        if importlib.util.find_spec("submitit") is None:
            raise ValueError("--launch slurm needs submitit: pip install 'kleiber[slurm]'.")
        if shutil.which("sbatch") is None:
            raise ValueError("--launch slurm: there is no sbatch here; type the line where jobs are submitted from.")
        flags = [_flag(name, value) for name, value in self._sbatch().items()]
        tried = subprocess.run(["sbatch", "--test-only", *flags, "--wrap=true"], capture_output=True, text=True)
        if tried.returncode:
            problem = tried.stderr.strip().replace("sbatch: error: ", "").replace("allocation failure: ", "")
            raise ValueError(f"--launch slurm: Slurm does not take such a job: {problem}. (sinfo lists partitions.)")
        self._check_limit()

    def _check_limit(self) -> None:
        """Raises ValueError for a time that the partition never gives: Slurm takes such a job, and lets it wait."""
        if "qos" in self.options:  # one may lift the limit of a partition
            return
        partition = self.options.get("partition", os.environ.get("SBATCH_PARTITION", ""))
        found = subprocess.run(["sinfo", "--all", "--noheader", "--format=%P %l"], capture_output=True, text=True)
        for name, limit in (line.split() for line in found.stdout.splitlines() if len(line.split()) == 2):
            is_ours = name.rstrip("*") == partition if partition else name.endswith("*")
            if is_ours and (most := minutes_of(limit)) is not None and most < self.minutes:
                raise ValueError(
                    f"--launch slurm: time={self.minutes} minutes, and partition {name.rstrip('*')} gives {most} at "
                    f"most ({limit}): the jobs would wait for ever. Give time={most} or less: a job goes on from its "
                    "checkpoints after each limit."
                )

    def _sbatch(self) -> dict[str, Any]:
        return {"time": self.minutes, "nodes": self.nodes, "ntasks-per-node": 1, "requeue": True, **self.options}

    def num_workers(self, num_trunks: int) -> int:
        """Returns the jobs of a phase."""
        return min(self.jobs or num_trunks, num_trunks)

    def start(self, phase: Phase, indices: Sequence[int]) -> list[Job]:
        """Takes up the jobs of this phase that are in the queue already, and submits what is missing, as an array."""
        place = hashlib.sha256(str(phase.directory.absolute()).encode()).hexdigest()[:6]
        name = f"kleiber-{phase.experiment_name}-{phase.split}-{place}-{phase.experiment_hash}"
        if name != self._name:
            self._name, self._known = name, set()
        self._look()
        for outdated in self._outdated:  # of a driver that was killed, and a config that was changed since
            self.cancel(outdated)
        self._give_way(phase)
        names = [name for name in self._states if name not in self._known][: len(indices)]
        if names:
            phase.say(f"found {_listed(names)} in the queue")
        if missing := len(indices) - len(names):
            submitted = self._submit(phase, missing)
            names += submitted
            phase.say(f"submitted {_listed(submitted)} to {self.options.get('partition', 'the default partition')}")
            self._looked = 0.0
        self._known.update(names)
        seen = functools.partial(self._seen, phase)
        return [Job(name, phase.directory, self, f"slurm/{name.removeprefix('slurm-')}_*.out", seen) for name in names]

    def _seen(self, phase: Phase, host: str) -> None:
        """Says once of each phase that a node has begun: what a line of a cluster is waited for."""
        if self._name != self._name_seen:
            self._name_seen = self._name
            phase.say(f"the first job is at work on {host}, which sees {phase.directory.absolute()}")

    def _give_way(self, phase: Phase) -> None:
        """Cancels jobs that an earlier line has submitted with other options, unless they run: those go on."""
        others = [name for name in self._others if name not in self._known]
        waiting = [name for name in others if self._states[name] == "PENDING"]
        running = [name for name in others if name not in waiting]
        for name in waiting:
            subprocess.run(["scancel", "--state=PENDING", name.removeprefix("slurm-")], capture_output=True)
            del self._states[name]
        if waiting:
            phase.say(f"{_listed(waiting)} waited with other options than this line has: cancelled")
        if running:
            numbers = " ".join(name.removeprefix("slurm-") for name in running)
            phase.say(
                f"{_listed(running)}, submitted with other options than this line has: at work, and left so. For new "
                f"ones with its options, which go on from checkpoints: scancel {numbers}"
            )

    def _full_name(self) -> str:
        """Returns the name of the jobs in the queue, which tells the options with which they were submitted."""
        options = repr((sorted(self._sbatch().items()), sorted(self.images.items()), self.workers))
        return f"{self._name}-{hashlib.sha256(options.encode()).hexdigest()[:4]}"

    def _submit(self, phase: Phase, count: int) -> list[str]:
        import submitit

        folder = phase.directory.absolute() / "jobs" / "slurm"
        python, srun_args = in_container(self.images, phase.directory)
        executor = submitit.SlurmExecutor(folder, max_num_timeout=MANY, python=python)
        executor.update_parameters(
            job_name=self._full_name(),
            time=self.minutes,
            nodes=self.nodes,
            signal_delay_s=SIGNAL_SECONDS,
            stderr_to_stdout=True,
            array_parallelism=count,
            additional_parameters={
                name: value for name, value in self._sbatch().items() if name not in ("time", "nodes")
            },
            srun_args=srun_args,
        )
        with executor.batch():
            jobs = [executor.submit(OnNode(phase.arguments(self.workers))) for _ in range(count)]
        return [f"slurm-{job.job_id}" for job in jobs]

    def _look(self) -> None:
        """Asks the queue for the jobs of this phase; where it does not answer, what was known counts."""
        self._looked = time.monotonic()
        asked = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i %T %j"]
        found = subprocess.run(asked, capture_output=True, text=True)
        if found.returncode == 0:
            jobs = [line.split(maxsplit=2) for line in found.stdout.splitlines()]
            same = self._name.rpartition("-")[0] + "-"
            ours = [(f"slurm-{number}", state, name) for number, state, name in jobs if name.startswith(self._name)]
            self._states = {number: state for number, state, _ in ours}
            self._others = [number for number, _, name in ours if name != self._full_name()]
            alike = [(number, name) for number, _, name in jobs if name.startswith(same)]
            self._outdated = [number for number, name in alike if not name.startswith(self._name)]

    def state(self, name: str) -> str:
        """Returns the state of a job in the queue; nothing once it has left."""
        if time.monotonic() - self._looked > look_seconds():
            self._look()
        return self._states.get(name, "")

    def cancel(self, name: str) -> None:
        """Cancels a job: SIGTERM, and KillWait of slurm.conf to save."""
        subprocess.run(["scancel", name.removeprefix("slurm-")], capture_output=True)
        self._looked = 0.0


def in_container(images: dict[str, str], directory: Path) -> tuple[str | None, list[str]]:
    """Returns the command of Python and what srun is told, so that a job runs in a container that sees the sweep.

    Args:
      images: an image by its kind, `container` or `apptainer`; empty where a job runs as the driver does.
      directory: of the sweep, which the container sees at the same path.
    """
    place = str(directory.absolute())
    if "container" in images:
        return "python", [f"--container-image={images['container']}", f"--container-mounts={place}:{place}"]
    if "apptainer" in images:
        return shlex.join(["apptainer", "exec", "--bind", place, images["apptainer"], "python"]), []
    return None, []


def look_seconds() -> float:
    """Returns the time between looks at the queue, which all users of a cluster share: KLEIBER_QUEUE_SECONDS, or 5."""
    return seconds_in_environment("KLEIBER_QUEUE_SECONDS", 5)


def minutes_of(limit: str) -> int | None:
    """Returns the whole minutes of a limit as Slurm writes it, `2-00:00:00`, `1:00:00` or `30:00`; None for none."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [days or "0", *parts]):
        return None
    hours, minutes = [0, 0, *map(int, parts)][-3:-1]
    return int(days or 0) * 1440 + hours * 60 + minutes


def _listed(names: Sequence[str]) -> str:
    """Returns `jobs 21_0, 21_1`."""
    numbers = [name.removeprefix("slurm-") for name in names]
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"job{'s' * (len(numbers) > 1)} {', '.join(numbers[:8])}{more}"


def _flag(name: str, value: Any) -> str:
    return f"--{name}" if value is True else f"--{name}={value}"


class OnNode:
    """What submitit runs in a job: the workers of a node, in a process of their own."""

    def __init__(self, arguments: list[str]):
        self.arguments = arguments

    def __call__(self) -> int:
        """Runs them until all is done or the job is stopped."""
        numbers = [os.environ.get(name) for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")]
        name = f"slurm-{'_'.join(filter(None, numbers)) or os.environ['SLURM_JOB_ID']}"
        command = [sys.executable, "-m", "kleiber.experiments.sweeping.node", f"--name={name}", *self.arguments]
        self.process = subprocess.Popen(command)
        signal.signal(signal.SIGTERM, lambda *_: self.process.terminate())
        return self.process.wait()

    def checkpoint(self) -> Any:
        """Has them save, ahead of a time limit, and goes back to the queue."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        with contextlib.suppress(
            ChildProcessError
        ):  # the signal that led here has interrupted wait(), which has a lock
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(OnNode(self.arguments))
