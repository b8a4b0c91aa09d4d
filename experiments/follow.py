"""The other processes of a run over several hosts: each starts a worker that joins the lead's, phase after phase.

Only the first process plans, fits, registers and writes. `launch.json` in the directory, which all hosts must share,
tells the others when it has ended, and how.
"""

import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kleiber.experiments.errors import EXIT_RESUMABLE
from kleiber.experiments.record import read_json, write_json
from kleiber.experiments.workers import STOP_SECONDS, worker_environment
from kleiber.parallel.hosts import process_in_environment, start_seconds

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
    finally:
        write_json(directory / LAUNCH, {**launch, "exit_code": exit_code})


def follow(directory: Path, num_devices: int) -> int:
    """Takes part in the lead's phases until its launch has ended, and returns its exit code.

    Args:
      directory: of the lead's run or sweep, on a file system that all hosts share.
      num_devices: devices of the largest mesh, for simulated ones.
    """
    before, has_joined = _launch(directory).get("id"), False
    number, count = process_in_environment()
    print(f"process {number} of {count} takes part in {directory}; the first one tells how it goes", flush=True)
    deadline = time.monotonic() + start_seconds()
    while not (directory / "experiment.json").exists():  # the lead makes the directory its own first
        if time.monotonic() > deadline:
            print(f"no run appeared in {directory} within {start_seconds():.0f} s: do all processes share that folder?")
            return EXIT_RESUMABLE
        time.sleep(0.2)
    command = [sys.executable, "-m", "kleiber.experiments.worker", str(directory), "follow", "0", "follow"]
    with open(directory / f"log-{number}.txt", "a") as log:
        while True:
            environment = worker_environment(num_devices)
            worker = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
            try:
                while worker.poll() is None or has_joined:
                    time.sleep(0.2)
                    launch = _launch(directory)
                    if launch.get("exit_code") is not None and (has_joined or launch["id"] != before):
                        return int(launch["exit_code"])
                    if worker.poll() is not None:
                        break
                has_joined = True
                time.sleep(0.5)
            finally:
                _end(worker)


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
