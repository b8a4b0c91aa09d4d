"""What a sweep asks of whatever starts its workers, and which launchers there are. One is made of a line such as
`slurm:partition=debug,time=60`.
"""

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from kleiber.experiments.arguments import pairs
from kleiber.experiments.terminal import tell

LAUNCHERS = ("local", "slurm", "ray", "kubernetes", "skypilot", "xpk")
"""Each is a file here."""


@dataclass(frozen=True)
class Phase:
    """What the workers of a phase are told."""

    directory: Path
    """Of the sweep, on a file system that all of them share."""
    split: str
    session: str
    """Of the launch, within which attempts count."""
    log: IO[str]
    """Takes what local workers write."""
    num_devices: int = 1
    """That each worker needs."""
    num_trunks: int = 1
    experiment_name: str = ""
    experiment_hash: str = ""
    ledger_hash: str = ""
    """Of the last line of the ledger, which a node must see before a target begins."""
    say: Callable[[str], None] = tell
    """Shows a line to the user, and logs it."""

    def arguments(self, workers: int | None) -> list[str]:
        """Returns what kleiber.experiments.sweeping.node is told, but for the name of its job.

        Args:
          workers: of each job; None is one for each core of its node.
        """
        given = {"split": self.split, "session": self.session, "experiment": self.experiment_hash}
        given |= {"place": str(Path.cwd())}
        given |= {"ledger": self.ledger_hash} if self.ledger_hash else {}
        given |= {"workers": str(workers)} if workers else {}
        return [str(self.directory.absolute()), *(f"--{name}={value}" for name, value in given.items())]


class Worker(Protocol):
    """A worker, or a job of several, that was started."""

    name: str
    """For people."""
    pid: int | None
    """Where it is a process of this machine."""

    def poll(self) -> int | None:
        """Returns its exit code (experiments/exit_codes.py); None while it works, or waits for its turn."""

    def heard(self) -> list[str]:
        """Returns the lines it has said since it was last listened to."""

    def terminate(self) -> None:
        """Asks it to save and leave."""

    def kill(self) -> None:
        """Ends it, after it was asked and stayed."""

    def close(self) -> None:
        """Takes away what it has left once it has ended."""


class Launcher(Protocol):
    """Starts workers. It is made of the options that its line gives, and raises ValueError for those it cannot take."""

    def check(self, directory: Path) -> None:
        """Raises ValueError for what would not work, before anything is spent."""

    def num_workers(self, num_trunks: int) -> int:
        """Returns how many workers, or jobs, it starts for a phase."""

    def start(self, phase: Phase, indices: Sequence[int]) -> Sequence[Worker]:
        """Starts a worker for each index, or takes up one that an earlier driver has started."""


def open_launcher(line: str, workers: int | None = None) -> Launcher:
    """Returns the launcher of a line, `NAME` or `NAME:OPTION=VALUE,...`.

    Args:
      line: as given to --launch.
      workers: as given to --workers.

    Raises:
      ValueError: there is none of that name (with the nearest), or it takes no such options.
    """
    name, _, options = line.partition(":")
    if name not in LAUNCHERS:
        near = difflib.get_close_matches(name, LAUNCHERS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"--launch {line}: expected {', '.join(LAUNCHERS)}, as in slurm:partition=debug,time=60{hint}")
    module = importlib.import_module(f"kleiber.experiments.launch.{name}")
    return module.launcher(pairs(options, "launch"), workers)


def whole_number(options: dict[str, str], name: str, default: int | None = None) -> int | None:
    """Takes a whole number of at least 1 out of the options of a launcher; ValueError if it is none."""
    text = options.pop(name, None)
    if text is None:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--launch: {name}={text}, expected a whole number, at least 1.")
    return int(text)
