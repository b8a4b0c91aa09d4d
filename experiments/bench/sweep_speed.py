"""A whole sweep next to PyTorch: the quickstart's runs from the first process to the last, everything included.

    python -m kleiber.experiments.bench.sweep_speed rounds=5 scale=0.1
    python -m kleiber.experiments.bench.sweep_speed rounds=1 scale=1

Same shapes, tokens, batches, schedule, branches and validation windows, seed by seed; kleiber also keeps checkpoints,
metrics and records, and PyTorch does not. At scale 1 kleiber starts with an empty compilation cache each time. Below,
where tokens shrink and compilation could not, it starts with a warm one.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.bench.interleave import interleaved
from kleiber.experiments.bench.step_shapes import Arrangement
from kleiber.experiments.experiment import Experiment
from kleiber.train.config import TrainConfig

ARRANGEMENTS = {"torch: two one-thread workers": (2, 1), "torch: one two-thread process": (1, 2)}
"""Workers and threads of each, where there are two cores; in general as many as there are cores."""


def experiment_of(scale: float) -> Experiment:
    """Returns the quickstart's runs, targets too, as plain trunks with so much of their tokens; largest first."""
    from kleiber.experiments.configs.quickstart import experiment

    quickstart = experiment()

    def scaled(config: TrainConfig) -> TrainConfig:
        evaluation = replace(config.evaluation, num_tokens=int(config.evaluation.num_tokens * scale))
        counts = tuple(round(tokens * scale) for tokens in config.num_tokens)
        warmup = min(config.schedule.warmup_steps, config.steps_at(counts[0]) // 4)
        schedule = replace(config.schedule, warmup_steps=warmup)
        return replace(config, num_tokens=counts, evaluation=evaluation, schedule=schedule)

    trunks = (*quickstart.trunks, *(target.train for target in quickstart.targets))
    cost = {config: config.num_tokens[-1] * config.model.d_model for config in trunks}
    largest_first = sorted(trunks, key=lambda config: -cost[config])
    return Experiment("sweep_speed", quickstart.question, tuple(map(scaled, largest_first)), laws=())


def trained_tokens(experiment: Experiment) -> int:
    """Returns the training tokens of all runs: each trunk once, and the cooldown of each branch."""
    from kleiber.train.schedule import cooldown_start

    total = 0
    for config in experiment.trunks:
        step = 0
        for num_tokens in config.num_tokens:
            last = config.steps_at(num_tokens)
            total += (last - step) * config.tokens_per_step
            step = cooldown_start(config.schedule, last)
    return total


def _kleiber(config_file: Path, folder: Path, cache: Path) -> dict[int, dict[int, float]]:
    """Runs `kleiber sweep` and returns the losses by trunk seed, width and tokens."""
    command = [sys.executable, "-m", "kleiber.experiments.cli", "sweep", str(config_file), "--out", str(folder)]
    done = subprocess.run(
        [*command, "--json"],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"kleiber sweep ended with {done.returncode}: {done.stderr[-2000:]}")
    from kleiber.experiments.record import read_records

    losses: dict[int, dict[int, float]] = {}
    for record in read_records(folder):
        key = int(record["d_model"]) * 100_000 + int(record["seed"])
        losses.setdefault(key, {})[int(record["run_id"].rsplit("-D")[1])] = float(record["loss"])
    return losses


def _torch(config_file: Path, experiment: Experiment, num_workers: int, num_threads: int) -> dict[int, dict]:
    """Runs the PyTorch workers, each taking the next trunk, and returns the losses in the same form."""
    waiting: queue.Queue[int] = queue.Queue()
    for index in range(len(experiment.trunks)):
        waiting.put(index)
    losses: dict[int, dict[int, float]] = {}
    problems: list[str] = []

    def serve() -> None:
        command = [sys.executable, "-m", "kleiber.experiments.bench.torch_sweep", str(num_threads), str(config_file)]
        environment = Arrangement("torch", num_threads).environment()
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
            assert process.stdin and process.stdout
            while True:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    break
                process.stdin.write(f"{index}\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    errors.seek(0)
                    problems.append(errors.read()[-2000:])
                    break
                config = experiment.trunks[index]
                found = json.loads(line)["losses"]
                losses[config.model.d_model * 100_000 + config.seed] = {int(k): v for k, v in found.items()}
            process.stdin.close()
            process.wait()

    threads = [threading.Thread(target=serve) for _ in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(f"a PyTorch worker ended:\n{problems[0]}")
    return losses


def _differences(ours: dict[int, dict], theirs: dict[int, dict]) -> list[float]:
    return [theirs[run][tokens] / loss - 1 for run, points in ours.items() for tokens, loss in points.items()]


def measure_sweep(
    rounds: int = 5,
    scale: float = 0.1,
    tell: Callable[[str], None] = print,
    peers: tuple[str, ...] = tuple(ARRANGEMENTS),
) -> dict[str, Any]:
    """Returns seconds and tokens per second of the whole set of runs in each arrangement, and kleiber's ratio to the
    better of PyTorch's.

    Args:
      rounds: turns of each arrangement.
      scale: part of the quickstart's tokens, training and validation.
      tell: gets a line of progress now and then.
      peers: arrangements of PyTorch.

    Raises:
      RuntimeError: if a process fails; the message holds the end of what it wrote.
    """
    experiment = experiment_of(scale)
    tokens, found = trained_tokens(experiment), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config_file = folder / "sweep_speed.py"
        source = "from kleiber.experiments.bench.sweep_speed import experiment_of\n\n\ndef experiment():\n"
        config_file.write_text(f"{source}    return experiment_of({scale!r})\n")
        count = 0

        def ours() -> None:
            nonlocal count
            count += 1
            tell(f"sweep: kleiber, run {count}")
            cache = folder / ("warm" if scale < 1 else f"cold_{count}")
            found["kleiber"] = _kleiber(config_file, folder / f"out_{count}", cache)

        def peer(name: str) -> Callable[[], None]:
            def run() -> None:
                tell(f"sweep: {name}")
                found[name] = _torch(config_file, experiment, *ARRANGEMENTS[name])

            return run

        if scale < 1:
            ours()  # fills the compilation cache
        candidates = {"kleiber": ours, **{name: peer(name) for name in peers}}

        def timed(run: Callable[[], None]) -> Callable[[], float]:
            def measure() -> float:
                started = time.perf_counter()
                run()
                return time.perf_counter() - started

            return measure

        samples = interleaved({name: timed(run) for name, run in candidates.items()}, rounds)
    better = min(peers, key=lambda name: samples.spread(name).median)
    differences = _differences(found["kleiber"], found[better])
    return {
        "scale": scale,
        "runs": len(experiment.trunks),
        "points": sum(len(config.num_tokens) for config in experiment.trunks),
        "trained_tokens": tokens,
        "compilation_cache": "warm" if scale < 1 else "empty at each start",
        "seconds": samples.as_dict(),
        "tokens_per_second": {name: tokens / samples.spread(name).median for name in candidates},
        "better_torch_arrangement": better,
        "loss_difference": {
            "mean": float(np.mean(differences)),
            "root_mean_square": float(np.sqrt(np.mean(np.square(differences)))),
            "largest": float(np.max(np.abs(differences))),
        },
        "sweep_ratio_to_pytorch": samples.ratio(better, "kleiber").as_dict(),
    }


if __name__ == "__main__":
    given = dict(argument.split("=") for argument in sys.argv[1:])
    chosen = tuple(ARRANGEMENTS)[: int(given.get("peers", 2))]
    result = measure_sweep(int(given.get("rounds", 5)), float(given.get("scale", 0.1)), peers=chosen)
    print(json.dumps({**result, "load_average": os.getloadavg()}, indent=1))
