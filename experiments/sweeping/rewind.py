"""A run taken up again before a batch that broke it, with that batch left out."""

import shutil
from dataclasses import replace
from pathlib import Path

from kleiber.experiments.config_file import from_data, to_data
from kleiber.experiments.directory.record import trunk_id
from kleiber.experiments.experiment import Experiment
from kleiber.files import read_json, write_json
from kleiber.train.checkpoints.manifest import CheckpointError
from kleiber.train.config import TrainConfig
from kleiber.train.watch.metrics import Metrics


def rewind(directory: Path, out: Path, skip: tuple[str, ...], run: str | None = None) -> tuple[Experiment, int]:
    """Makes out ready to train a run on without some batches, and returns (its experiment, the step it goes on from).

    Args:
      directory: holds the run.
      out: of the continuation; made if missing.
      skip: ranges as FIRST:END.
      run: trunk id, or None when there is only one.

    Raises:
      ValueError: no such run, or ranges that make no sense.
    """
    old = _trunk(directory, run)
    ranges = _merge([*old.guard.skip_batches, *map(_range, skip)])
    new = replace(old, guard=replace(old.guard, skip_batches=ranges))
    if new == old:
        raise ValueError("--skip-batches leaves out nothing new; give FIRST:END, such as --skip-batches 1200:1230.")
    name = read_json(directory / "experiment.json", "name")["name"]
    experiment = Experiment(name=name, question=f"{name} without batches {ranges}", trunks=(new,), laws=())
    target = out / "runs" / trunk_id(new)
    note = out / "rewound.json"
    if note.exists():
        return experiment, read_json(note, "step")["step"]
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; give a new --out for the continuation.")
    first = min(end[0] for end in ranges if end not in old.guard.skip_batches)
    steps_before = next(step for step in range(first + 1) if old.guard.batch_number(step) >= first)
    step = _copy_checkpoint(directory / "runs" / trunk_id(old), target, old, new, steps_before)
    write_json(note, {"from": str(directory), "run": trunk_id(old), "step": step, "skip_batches": ranges})
    write_json(out / "experiment.json", to_data(experiment))
    return experiment, step


def _trunk(directory: Path, run: str | None) -> TrainConfig:
    path = directory / "experiment.json"
    if not path.exists():
        raise ValueError(
            f"{directory} holds no experiment.json; give a directory of `kleiber train` or `kleiber sweep`."
        )
    experiment = from_data(Experiment, read_json(path))
    trunks = {trunk_id(c): c for c in (*experiment.trunks, *(target.train for target in experiment.targets))}
    if run is None and len(trunks) == 1:
        return next(iter(trunks.values()))
    if run not in trunks:
        asked = "name the run with --run" if run is None else f"--run {run} is not there"
        raise ValueError(f"{asked}: {directory} has {', '.join(trunks)}.")
    return trunks[run]


def _range(text: str) -> tuple[int, int]:
    first, colon, end = text.partition(":")
    if not (colon and first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise ValueError(f"--skip-batches {text}: expected FIRST:END with FIRST below END, such as 1200:1230.")
    return int(first), int(end)


def _merge(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return tuple(merged)


def _copy_checkpoint(source: Path, target: Path, old: TrainConfig, new: TrainConfig, last_step: int) -> int:
    """Copies the newest whole checkpoint at or before last_step, and its metrics; returns its step, or 0."""
    from kleiber.train.checkpoints import checkpoint
    from kleiber.train.checkpoints.identity import run_identity
    from kleiber.train.checkpoints.manifest import read_manifest

    folder = source / "checkpoints" / "trunk"
    for step in reversed(checkpoint.steps(folder)):
        if step > last_step:
            continue
        try:
            arrays, manifest = checkpoint.load_arrays(folder / f"step_{step}")
            checkpoint.check_identity(folder, read_manifest(folder / f"step_{step}"), run_identity([old]), ())
        except CheckpointError:
            continue
        checkpoint.save(target / "checkpoints" / "trunk", step, arrays, manifest["extra"], 1, run_identity([new]))
        if (source / "metrics.jsonl").exists():
            shutil.copy(source / "metrics.jsonl", target / "metrics.jsonl")
            Metrics(target / "metrics.jsonl").keep_only("trunk", step)
        return step
    return 0
