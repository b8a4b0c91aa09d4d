"""A sweep's driver in a process of its own, whose workers are forked from what is loaded already."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from chaos.sabotage import sabotage
from kleiber.experiments.exit_codes import EXIT_CANNOT_WRITE, EXIT_RESUMABLE, EXIT_USAGE
from kleiber.experiments.experiment import Experiment


class ForkedWorker:
    """Stands in for subprocess.Popen in the driver: the same worker, forked from what is loaded already."""

    def __init__(self, command: list[str], stdout: Any, stderr: Any, env: dict[str, str], **_: Any):
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            os.dup2(stdout.fileno(), 1)
            os.dup2(stdout.fileno(), 2)
            os.environ.update(env)
            from kleiber.experiments.sweeping.worker import main

            directory, split, index, session = command[-4:]
            sabotage(Path(directory))
            code = main(Path(directory), split, int(index), session)
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """As subprocess.Popen.poll."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """As subprocess.Popen.wait."""
        import subprocess

        deadline = time.monotonic() + (timeout or 1e9)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            time.sleep(0.01)
        return self.returncode or 0

    def send_signal(self, number: int) -> None:
        """As subprocess.Popen.send_signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """As subprocess.Popen.terminate."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """As subprocess.Popen.kill."""
        self.send_signal(signal.SIGKILL)


def drive(experiment: Experiment, directory: Path, max_seconds: float | None = None) -> int:
    """Runs a sweep as `kleiber sweep --workers 2` does, in this process, and returns its exit code."""
    from kleiber.experiments.launch import local
    from kleiber.experiments.planning import plan
    from kleiber.experiments.sweeping import sweep
    from kleiber.experiments.sweeping.failures import cannot_write

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler)
    local.subprocess.Popen = ForkedWorker  # type: ignore[misc, assignment]
    # Prepared already; the digests of data start threads, and workers are forked.
    sweep.prepare_data = lambda *_: None
    plan.data_problems = lambda *_: []
    try:
        return sweep.run_sweep(experiment, directory, 2, has_report=False, max_seconds=max_seconds).exit_code
    except ValueError as mistake:
        print(mistake)
        return EXIT_USAGE
    except OSError as problem:
        print(problem)
        return EXIT_CANNOT_WRITE if cannot_write(problem) else 1
    except KeyboardInterrupt:
        return EXIT_RESUMABLE
