"""What runs in a job of a cluster: looks whether this node sees what the driver sees, then runs the node's workers.

A sign in the sweep's directory (launch/job.py) tells the driver, and whoever comes after it, how it goes.
"""

import contextlib
import os
import platform
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import tyro

from kleiber.experiments.config_file import config_hash, from_data
from kleiber.experiments.exit_codes import EXIT_RESUMABLE, EXIT_USAGE
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.launch.job import Sign
from kleiber.experiments.launch.launcher import Phase
from kleiber.experiments.launch.local import IDLE_SECONDS, WARNING, Local
from kleiber.experiments.planning.cells import all_cells, cell_records, trunk_cells
from kleiber.experiments.sweeping.follow import follow, lead_launch
from kleiber.experiments.sweeping.inventory import check_release, made_with
from kleiber.experiments.sweeping.lock import is_seen
from kleiber.experiments.sweeping.workers import WorkerPool, default_workers, num_devices
from kleiber.files import read_json
from kleiber.parallel.environment import NUM_PROCESSES, process_in_environment
from kleiber.scaling.forecasting.ledger import Ledger

STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Of a cluster that preempts a job, or nears its time limit."""
PATIENCE_SECONDS = 30.0
"""That a network file system may take to show what another machine has written, and that a worker waits for work."""


@dataclass(frozen=True)
class Order:
    """What a driver has a node do."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Of the sweep."""
    name: str
    """Of the job."""
    split: str
    session: str
    experiment: str
    """config_hash of what the driver runs."""
    place: Path = Path()
    """Where the driver was started, from which paths of its config count."""
    ledger: str = ""
    """Hash of a line of the ledger that must be there before a target begins."""
    workers: int | None = None
    """Of this node; None is one for each core that its job has."""


def main(order: Order) -> int:
    """Runs workers until nothing is left to do, and returns the exit code of a phase (WorkerPool.run); 2 where this
    node does not see what the driver does, and then nothing is begun."""
    host = platform.node()
    if not (order.directory / "experiment.json").exists():
        print(f"{host} sees no sweep in {order.directory}: use an --out that all nodes share", flush=True)
        return EXIT_USAGE  # nothing is written where another sweep, or none, may be
    for stop in STOPS:
        signal.signal(stop, _stop)
    if order.place.is_dir():
        os.chdir(order.place)
    number, count = process_in_environment()
    if count > 1 and number > 0:  # of a run over several nodes
        experiment = _checked(order)
        with contextlib.suppress(KeyboardInterrupt):
            return follow(order.directory, num_devices(cell.config for cell in all_cells(experiment)), experiment)
        return EXIT_RESUMABLE
    with Sign(order.directory, order.name, host) as sign:
        try:
            sign.exit_code = _work(order, sign, host)
        except ValueError as problem:
            sign.say(f"{host}: {problem}")
            sign.exit_code = EXIT_USAGE
        except KeyboardInterrupt:
            print("stopped: what is trained is saved", flush=True)
            sign.exit_code = EXIT_RESUMABLE
    return sign.exit_code


def _work(order: Order, sign: Sign, host: str) -> int:
    experiment = _checked(order)
    cells = trunk_cells(experiment, order.split)
    configs = [cell.config for cell in cells]
    workers = order.workers or default_workers(configs)
    number = re.search(r"(\d*)$", order.name)
    first = int(number[1] or 0) * workers if number else 0  # where a cluster does not keep jobs to cores of their own
    phase = Phase(order.directory, order.split, order.session, sys.stdout, num_devices(configs), len(cells))

    def say(line: str) -> None:
        print(line, flush=True)
        sign.say(f"{WARNING}{host}: {line.removeprefix(WARNING)}")

    pool = WorkerPool(phase, say, (Local(workers, first),))
    parent = os.getppid()

    def work() -> SimpleNamespace:
        return SimpleNamespace(exit_code=pool.run(lambda: _leave_with(parent)))

    if process_in_environment()[1] > 1:
        code = lead_launch(order.directory, work).exit_code
    else:
        os.environ[NUM_PROCESSES] = "1"  # its job is one of many that work by themselves
        os.environ.setdefault(IDLE_SECONDS, str(PATIENCE_SECONDS))
        code = work().exit_code
    for line in pool.messages:
        sign.say(f"{host}: {line}")
    return code


def _checked(order: Order) -> Experiment:
    """Returns the experiment, once this node is known to see what the driver sees.

    Raises:
      ValueError: it sees another experiment, release, ledger, or none of the driver's locks.
    """
    directory = order.directory
    experiment = from_data(Experiment, read_json(directory / "experiment.json"))
    if (found := config_hash(experiment)) != order.experiment:
        raise ValueError(f"{directory} holds another experiment than the driver has ({found}, not {order.experiment})")
    if not is_seen(directory):
        raise ValueError(
            f"locks in {directory} that another machine holds do not hold here: two workers would train one run. Mount "
            "it with locks (Lustre: flock; NFS: without nolock), or use an --out on another file system"
        )
    cells = trunk_cells(experiment, order.split)
    if "versions" in made_with(directory):
        check_release(cell_records(cells, directory), directory, ())
    deadline = time.monotonic() + PATIENCE_SECONDS
    while order.ledger and not _has(directory, order.ledger):
        if time.monotonic() > deadline:
            raise ValueError(
                f"{directory / 'ledger.jsonl'} has no line {order.ledger[:12]}: no target begins before it"
            )
        time.sleep(1)
    return experiment


def _has(directory: Path, line: str) -> bool:
    return any(entry["hash"] == line for entry in Ledger(directory / "ledger.jsonl").entries())


def _leave_with(parent: int) -> None:
    """Ends the work once the process that started this one is gone, and with it the job: another may take it up."""
    if os.getppid() != parent:
        raise KeyboardInterrupt


def _stop(number: int, frame: object) -> None:
    """Ends the work at the first signal; those after it, while workers save, change nothing."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Order)))
