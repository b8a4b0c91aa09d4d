"""The other processes of a run over several hosts: each starts a worker that joins the lead's, phase after phase.

Only the first process plans, fits, registers and writes. `launch.json` in the directory, which all hosts must share,
tells the others when it has ended, and how.
"""

import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kleiber.experiments.config_file import to_data
from kleiber.experiments.exit_codes import EXIT_CANNOT_WRITE, EXIT_DONE, EXIT_RESUMABLE, EXIT_USAGE
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.launch.local import WARNING, heard, start_worker
from kleiber.experiments.sweeping.workers import MAX_RESTARTS, STOP_SECONDS
from kleiber.files import open_to_append, read_json, write_json
from kleiber.parallel.environment import process_in_environment, start_seconds

GIVEN = "KLEIBER_GIVEN_EXPERIMENT"
"""The variable with the path of the experiment of a follower's own command line."""
LAUNCH = "launch.json"


def lead_launch(directory: Path, run: Callable[[], Any]) -> Any:
    """Runs the lead's part, and tells the other processes when it begins and how it ended."""
    launch = {"id": uuid.uuid4().hex, "exit_code": None}
    write_json(directory / LAUNCH, launch)
    exit_code = EXIT_RESUMABLE
    try:
        result = run()
        exit_code = result.exit_code
        return result
    except OSError:
        exit_code = EXIT_CANNOT_WRITE
        raise
    except Exception:  # a mistake of the config, say: nothing that a second try mends
        exit_code = EXIT_USAGE
        raise
    finally:
        if (directory / LAUNCH).exists():  # else it was moved or removed: nothing is written at the old place
            write_json(directory / LAUNCH, {**launch, "exit_code": exit_code})


def follow(directory: Path, num_devices: int, experiment: Experiment) -> int:
    """Takes part in the lead's phases until its launch has ended, and returns its exit code.

    Args:
      directory: of the lead's run or sweep, on a file system that all hosts share.
      num_devices: devices of the largest mesh, for simulated ones.
      experiment: of this process's command line, to be compared with the lead's.
    """
    earlier = _launch(directory)  # a launch that has ended already is not the one to take part in
    stale = earlier.get("id") if earlier.get("exit_code") is not None else None
    number, count = process_in_environment()
    print(f"process {number} of {count} takes part in {directory}; the first one tells how it goes", flush=True)
    deadline = time.monotonic() + start_seconds()
    while not (directory / "experiment.json").exists():  # the lead makes the directory its own first
        if time.monotonic() > deadline:
            print(f"no run appeared in {directory} within {start_seconds():.0f} s: do all processes share that folder?")
            return EXIT_RESUMABLE
        time.sleep(0.2)
    failures = 0
    path = directory / f"log-{number}.txt"
    with open_to_append(path) as log, tempfile.NamedTemporaryFile("w", suffix=".json") as given:
        json.dump(to_data(experiment), given)
        given.flush()
        while failures <= MAX_RESTARTS:
            if (exit_code := _ended(directory, stale)) is not None:
                return exit_code
            arguments = [str(directory), "follow", "0", "follow"]
            worker, pipe = start_worker(arguments, log, num_devices, {GIVEN: given.name})
            try:
                while worker.poll() is None:
                    time.sleep(0.2)
                    if (exit_code := _ended(directory, stale)) is not None:
                        return exit_code
            finally:
                _end(worker)
                said = [line for line in heard(pipe) if not line.startswith(WARNING)]
                os.close(pipe)
                for line in said:
                    print(f"process {number} of {count}: {line}", flush=True)
            if worker.returncode == EXIT_USAGE:
                return EXIT_USAGE
            if said and worker.returncode == EXIT_RESUMABLE and _launch(directory).get("id") == stale:
                return EXIT_RESUMABLE  # the lead did not come at all
            failures = 0 if worker.returncode == EXIT_DONE else failures + 1
            time.sleep(0.5)
    print(f"gave up after {failures} workers that failed; see {log.name}. The same line goes on.", flush=True)
    return EXIT_RESUMABLE


def _ended(directory: Path, stale: str | None) -> int | None:
    """Returns how the lead's launch ended; None while it runs, or while there is none but a stale one."""
    launch = _launch(directory)
    return None if launch.get("id") in (stale, None) else launch["exit_code"]


def _launch(directory: Path) -> dict:
    path = directory / LAUNCH
    return read_json(path) if path.exists() else {}


def _end(worker: subprocess.Popen) -> None:
    worker.terminate()
    try:
        worker.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
