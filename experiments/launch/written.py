"""Launchers that talk to no cluster: they write a file, say the command that starts the workers with it, and follow
what these write into the sweep's directory.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kleiber.experiments.launch.job import Job, is_fresh, sign_of
from kleiber.experiments.launch.launcher import Phase, whole_number
from kleiber.experiments.terminal import tell
from kleiber.files import write_whole

LONGEST_NAME = 36
"""Of a name to which an index is added: xpk takes 40 characters, and names of pods have 63, of which a JobSet adds
`-workers-0`, the index and six."""


@dataclass
class Written:
    """Writes what starts the workers of a phase, and follows them."""

    kind: ClassVar[str]
    """The launcher's name, with which those of its jobs and files begin."""
    suffix: ClassVar[str]
    starts: ClassVar[str]
    """What a person types; {path} is the file, {name} what its workers are called together."""
    stops: ClassVar[str]
    jobs: int
    workers: int | None
    options: dict[str, str]
    _written: Path | None = None
    _name: str = ""

    def text(self, phase: Phase, count: int) -> str:
        """Returns what stands in the file that starts so many jobs of a phase."""
        raise NotImplementedError

    def check(self, directory: Path) -> None:
        """Finds nothing: each job looks for itself whether it sees what the driver does."""

    def num_workers(self, num_trunks: int) -> int:
        """Returns the jobs of a phase."""
        return min(self.jobs, num_trunks)

    def start(self, phase: Phase, indices: Sequence[int]) -> list[Job]:
        """Follows the jobs of a phase, and writes the file of those that an earlier driver's do not stand for."""
        path = phase.directory / "jobs" / f"{self.kind}-{phase.split}.{self.suffix}"
        first = indices[0] if path != self._written else 0
        names = [f"{self.kind}-{phase.split}-{index - first}" for index in indices]
        signs = [sign_of(phase.directory, name) for name in names]
        if path != self._written and not all(map(is_fresh, signs)):
            for sign in signs:
                sign.unlink(missing_ok=True)
            write_whole(path, self.text(phase, len(indices)))
            tell(f"start the workers of this phase: {self.starts.format(path=path, name=name_of(phase))}")
        self._written, self._name = path, name_of(phase)
        return [Job(name, phase.directory, self) for name in names]

    def state(self, name: str) -> None:
        """Returns None: nobody is asked."""

    def cancel(self, name: str) -> None:
        """Says once how to stop the jobs."""
        if self._written:
            tell(f"stop the workers of this phase: {self.stops.format(path=self._written, name=self._name)}")
            self._written = None


def taken(kind: str, options: dict[str, str], known: Sequence[str], needed: Mapping[str, str]) -> int:
    """Takes the number of jobs out of the options of a launcher.

    Args:
      kind: the launcher's name.
      options: as given, what is left in it is checked.
      known: names of options that it takes.
      needed: names that it cannot do without, and what each means.

    Raises:
      ValueError: an option is unknown, or missing.
    """
    jobs = whole_number(options, "jobs", 1)
    assert jobs
    if odd := [name for name in options if name not in known]:
        raise ValueError(f"--launch {kind} takes {', '.join(known)}, not {', '.join(odd)}.")
    for name, meaning in needed.items():
        if name not in options:
            raise ValueError(f"--launch {kind} needs {name}=...: {meaning}.")
    return jobs


def name_of(phase: Phase) -> str:
    """Returns the name of a phase's jobs together: small letters, digits and dashes. Of a long name of an experiment it
    has the beginning; the session tells it from any other."""
    told = [re.sub("[^a-z0-9]+", "-", each.lower()) for each in (phase.experiment_name, phase.split, phase.session)]
    room = LONGEST_NAME - len("-".join(["kleiber", "", *told[1:]]))
    return "-".join(["kleiber", told[0][:room].strip("-") or "sweep", *told[1:]])


def mount_of(phase: Phase, options: Mapping[str, str]) -> str:
    """Returns the folder at which jobs mount the file system of the sweep: mount=, or the first folder of its path."""
    return options.get("mount") or "/" + phase.directory.absolute().parts[1]


def node_command(phase: Phase, name: str, workers: int | None) -> list[str]:
    """Returns the program and arguments of a job, whose image has kleiber."""
    return [
        "python",
        "-m",
        "kleiber.experiments.sweeping.node",
        f"--name={name}",
        *phase.arguments(workers),
    ]
