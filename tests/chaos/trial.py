"""What every failure test needs: a tiny run, children that can be killed, and results that can be compared.

Children are forked from a process that has loaded everything and started no device, so one costs a second and not
five. They are real processes: signals, limits and deaths are the system's own.
"""

import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kleiber.experiments.directory.record import TIMING_COLUMNS, read_records
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.sweeping.ownership import own_directory
from kleiber.model.config import ModelConfig
from kleiber.train.checkpoints.identity import differences, show
from kleiber.train.config import DataConfig, EvalConfig, GuardConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from kleiber.train.watch.metrics import whole_rows

LIMIT_SECONDS = 300.0
"""No child may take longer; one that does is a hang, and a failed trial."""


@dataclass(frozen=True)
class Result:
    """What one failure test found."""

    name: str
    """Such as R1."""
    title: str
    trials: int
    passed: int
    detail: str
    """What was seen, with figures."""
    seed: int
    seconds: float
    orbax: str = ""
    """What plain Orbax, or plain JAX, does in the same trial, where that was tried too."""
    failures: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether every trial passed."""
        return self.trials > 0 and self.passed == self.trials


@dataclass
class Bench:
    """Where the trials happen, and how many of them."""

    folder: Path
    seed: int
    scale: float = 1.0
    """1 is the long form; the short form makes a few of the trials."""
    corpus: Path = field(default_factory=Path)
    known: dict[str, Any] = field(default_factory=dict)
    """Outcomes of runs left alone, which several tests compare with."""

    def number(self, long: int, at_least: int = 1) -> int:
        """Returns how many trials to make where the long form makes so many."""
        return max(at_least, round(long * self.scale))

    def place(self, name: str) -> Path:
        """Returns a new folder."""
        path = self.folder / f"{name}-{len(list(self.folder.glob(name + '-*')))}"
        path.mkdir(parents=True)
        return path

    def draw(self, name: str) -> random.Random:
        """Returns the random stream of a test."""
        return random.Random(f"{self.seed} {name}")


class Tally:
    """Counts the trials of a test while they are made."""

    def __init__(self, name: str, title: str, seed: int):
        self.name, self.title, self.seed, self.started = name, title, seed, time.monotonic()
        self.trials, self.failures = 0, []  # type: int, list[str]

    def check(self, is_good: bool, what: str) -> bool:
        """Counts one trial; what says which, for the list of failures."""
        self.trials += 1
        if not is_good:
            self.failures.append(what)
        return is_good

    def result(self, detail: str, orbax: str = "") -> Result:
        """Returns the result of the test."""
        passed = self.trials - len(self.failures)
        seconds = round(time.monotonic() - self.started, 1)
        return Result(
            self.name, self.title, self.trials, passed, detail, self.seed, seconds, orbax, tuple(self.failures[:10])
        )


@dataclass
class Child:
    """A forked process."""

    pid: int
    out: Path
    code: int | None = None

    def wait(self, seconds: float = LIMIT_SECONDS) -> int:
        """Returns the exit code (negative: a signal), or kills it after so many seconds and returns -999."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.code = -999
            else:
                time.sleep(0.005)
        return self.code

    def is_alive(self) -> bool:
        """Returns whether it still runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def send(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.is_alive():
            os.kill(self.pid, number)

    def value(self) -> Any:
        """Returns what the function returned, through JSON; None if it did not get that far."""
        path = self.out.with_suffix(".json")
        return json.loads(path.read_text()) if path.exists() else None

    def text(self) -> str:
        """Returns what it printed."""
        return self.out.read_text(errors="replace") if self.out.exists() else ""


_children = 0


def start(bench: Bench, function: Callable[..., Any], *args: Any, limits: dict[int, int] | None = None) -> Child:
    """Forks a child that runs function and ends with what it returns: an int is its exit code, all else goes to a file.

    Args:
      bench: gives the folder of its output.
      function, args: what to run.
      limits: resource.RLIMIT_... -> bytes.
    """
    global _children
    _children += 1
    out = bench.folder / "children" / f"{_children}.txt"
    out.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Child(pid, out)
    code = 1
    try:
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        for which, limit in (limits or {}).items():
            resource.setrlimit(which, (limit, limit))
        value = function(*args)
        if isinstance(value, int) and not isinstance(value, bool):
            code = value
        else:
            out.with_suffix(".json").write_text(json.dumps(value))
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call(bench: Bench, function: Callable[..., Any], *args: Any, seconds: float = LIMIT_SECONDS) -> Any:
    """Returns what function returns in a child; raises RuntimeError with its output if it fails."""
    child = start(bench, lambda: [function(*args)])
    code = child.wait(seconds)
    if code:
        raise RuntimeError(f"a child of {function} ended with {code}:\n{child.text()[-3000:]}")
    return child.value()[0]


def tiny(bench: Bench, **changes: Any) -> TrainConfig:
    """Returns the run that is killed: some 5,000 parameters, 60 steps, a save every 3 steps."""
    width = changes.pop("d_model", 16)
    settings: dict[str, Any] = {
        "num_tokens": (60 * 32,),
        "batch_size": 2,
        "data": DataConfig(str(bench.corpus)),
        "schedule": ScheduleConfig(warmup_steps=5),
        "evaluation": EvalConfig(512),
        "steps_per_call": 3,
        "checkpoint_seconds": 0.0,
        "guard": GuardConfig(),
        **changes,
    }
    return TrainConfig(
        ModelConfig(d_model=width, num_layers=1, num_heads=1, seq_len=16), OptimizerConfig(0.01), **settings
    )


def make_run(directory: Path, *configs: TrainConfig) -> Path:
    """Makes a sweep directory of some runs, ready for a worker, and returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    own_directory(Experiment("chaos", "?", tuple(configs), laws=()), directory)
    return directory


def work(directory: Path, session: str = "chaos") -> int:
    """Works as a worker of `kleiber sweep` does, and returns its exit code."""
    from kleiber.experiments.sweeping.worker import main

    return main(directory, "fit", 0, session)


def outcome(directory: Path) -> dict[str, Any]:
    """Returns everything that must not depend on interruptions: records without times, and every logged row."""
    records = [{k: v for k, v in r.to_json().items() if k not in TIMING_COLUMNS} for r in read_records(directory)]
    logs = {}
    for path in sorted(directory.glob("runs/*/metrics.jsonl")):
        rows = whole_rows(path)
        logs[path.parent.name] = [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]
    return {"records": records, "logs": logs}


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Returns where two outcomes differ first, for the list of failures; nothing when they are equal."""
    return "; ".join(map(show, differences(expected, found)[:3]))


def logged_steps(directory: Path) -> int:
    """Returns how many steps the newest row of any log has."""
    steps = [0]
    for path in directory.glob("runs/*/metrics.jsonl"):
        for line in path.read_text(errors="replace").splitlines():
            try:
                steps.append(json.loads(line)["step"])
            except (ValueError, KeyError):
                continue
    return max(steps)


def repeated_steps(directory: Path) -> list[int]:
    """Returns, for each trunk that is not done, the logged steps beyond its newest checkpoint: they are repeated."""
    found = []
    for path in directory.glob("runs/*/metrics.jsonl"):
        folder, steps = path.parent, [0]
        for line in path.read_text(errors="replace").splitlines()[-1:]:
            with contextlib.suppress(ValueError, KeyError):
                row = json.loads(line)
                measured = row["segment"].replace("branch_", f"{folder.name}-D")
                steps.append(0 if (folder.parent / measured / "record.json").exists() else row["step"])
        saved = [int(place.name[5:]) for place in folder.glob("checkpoints/*/step_*")]
        found.append(max(0, steps[-1] - max(saved, default=0)))
    return found


def write_corpus(path: Path, seed: int = 0, paragraphs: int = 150) -> Path:
    """Writes a text of a tiny grammar and returns its path."""
    draw = random.Random(seed)
    nouns, verbs = ["model", "law", "token", "batch", "sweep", "mesh"], ["fits", "bends", "grows", "learns", "waits"]
    text = (
        " ".join(f"The {draw.choice(nouns)} {i % 97} {draw.choice(verbs)} the {draw.choice(nouns)}." for i in range(20))
        for _ in range(paragraphs)
    )
    path.write_text("\n\n".join(text))
    return path


def prepare(bench: Bench) -> None:
    """Writes the corpus and prepares it, in a child, once for all tests."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    bench.corpus = write_corpus(bench.folder / "own.txt")

    def build() -> str:
        from kleiber.train.data.run_data import open_run_data

        return open_run_data(tiny(bench)).train.fingerprint

    call(bench, build)
