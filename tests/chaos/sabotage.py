"""What is done to a worker from within: killed, starved of memory, made to raise, to hang, or frozen at a step."""

import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any


def sabotage(directory: Path) -> None:
    """Does to a worker what directory/sabotage.json says, if it is there: {"trunk", "fault", "times", "after"}."""
    path = directory / "sabotage.json"
    if not path.exists():
        return
    plan = json.loads(path.read_text())
    import kleiber.train.trunk as trunk

    look = trunk.Trunk._look

    def looked(self: Any, run: Any, block: Any, *more: Any) -> Any:
        found = look(self, run, block, *more)
        count = directory / "sabotaged"
        done = len(count.read_text()) if count.exists() else 0
        if plan["trunk"] in str(self.io.folder) and block[0] >= plan["after"] and done < plan["times"]:
            count.write_text("x" * (done + 1))
            _fault(plan["fault"])
        return found

    trunk.Trunk._look = looked  # type: ignore


def _fault(kind: str) -> None:
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory":
        import psutil

        limit = psutil.Process().memory_info().vms + 50_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        bytearray(4_000_000_000)
    if kind == "exception":
        raise RuntimeError("sabotaged")
    if kind == "hang":
        time.sleep(1000)
    if kind == "frozen":
        os.kill(os.getpid(), signal.SIGSTOP)
