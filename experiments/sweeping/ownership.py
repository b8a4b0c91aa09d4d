"""Whose a sweep directory is: the experiment written down in it, and what may differ when it is taken up again."""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from kleiber.experiments.config_file import from_data, to_data
from kleiber.experiments.directory.record import trunk_id
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import all_cells
from kleiber.experiments.sweeping.inventory import MADE_WITH, REPLACED, bring_back
from kleiber.files import (
    checked_line,
    has_seal,
    must_be_sealed,
    read_json,
    read_plain,
    row_of,
    write_json,
    write_whole,
)
from kleiber.train.checkpoints.identity import (
    NOT_IDENTITY,
    allow_words,
    differences,
    is_allowed,
    run_identity,
    show,
    splice_problem,
)
from kleiber.train.config import TrainConfig

CUT_OFF = re.compile(r"\..+\.\d+$")
"""Names of files that were being written by a process of that number."""
LEFT = {"sweep.lock", "sweep.json", "log.txt", "launch.json", "plan.json", "runs"}
"""What may be there before experiment.json is, or before a run has written anything."""


def make_directory(directory: Path) -> None:
    """Makes the directory of a sweep, if it is not there yet.

    Raises:
      ValueError: something else is there, or the place takes no directory; no lack of space.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        place = next(place for place in (directory, *directory.parents) if place.exists())
        raise ValueError(f"{place} is a file; name a directory, new or of this sweep, with --out.") from None
    except (FileNotFoundError, PermissionError) as problem:
        raise ValueError(f"cannot make the directory {directory} ({problem.strerror}); use another --out.") from None


def own_directory(experiment: Experiment, directory: Path, allow: tuple[str, ...] = ()) -> str:
    """Writes experiment.json into a new directory, or checks that the directory belongs to this experiment.

    Returns:
      A sentence about files of an earlier release that were sealed, or nothing.

    Args:
      experiment: that wants the directory.
      directory: of a sweep, or empty.
      allow: fields that may differ. Runs whose config they change are trained anew; where no law is fitted, or no step
        changes, they go on from the checkpoint of the run they replace.

    Raises:
      ValueError: it belongs to another one; the message lists the differences. Or it leads elsewhere by a link.
    """
    path, data = directory / "experiment.json", to_data(experiment)
    runs = directory / "runs"
    places = [path, directory / "ledger.jsonl", runs, directory / REPLACED]
    links = [str(place) for place in places if place.is_symlink()]
    for place in places[2:] if not links else ():
        if place.is_dir():
            with os.scandir(place) as entries:
                links += [entry.path for entry in entries if entry.is_symlink()]
    if links:
        raise ValueError(f"{links[0]} leads elsewhere, being a symbolic link; kleiber writes inside --out only.")
    trained = runs.is_dir() and any(item.name[0] != "." for item in runs.iterdir())
    if not (path.exists() and trained):
        if path.exists() and not _is_strangers(path):  # nothing was trained: whoever corrects a config starts over
            (directory / "result.json").unlink(missing_ok=True)
        elif others := _not_of_a_sweep(directory):
            raise ValueError(f"{directory} is not empty and holds no sweep (it has {others[0]}); use another --out.")
        told = _seal_as_it_stands(directory)
        write_json(path, data)
        return told
    old_data = read_json(path, "name", "trunks")
    try:  # fields that came after it was written have their defaults
        old = from_data(Experiment, old_data)
        old_data = to_data(old)
    except (ValueError, TypeError):
        old = None
    changed = differences(old_data, data)
    refused = [difference for difference in changed if not is_allowed(difference[0], allow)]
    if refused:
        shown = "\n  ".join(map(show, refused[:12]))
        more = f"\n  ... and {len(refused) - 12} more" if len(refused) > 12 else ""
        raise ValueError(
            f"{directory} belongs to another experiment. Differences (there -> here):\n  {shown}{more}\n"
            f"Use another --out, restore the config that made it, or allow what may differ: {allow_words(refused)}"
        )
    told = _seal_as_it_stands(directory)
    # The points of a law are trained from their first step on by the config they have: see _carry_over.
    goes_on = old is not None and (not experiment.laws or all(_leaves_steps_alone(field) for field, _, _ in changed))
    for before, after in _continued(old, experiment, directory) if old and goes_on and changed else ():
        if problem := splice_problem(before, after):
            raise ValueError(
                f"{trunk_id(before)} cannot go on as {trunk_id(after)}: {problem}. Use another --out, "
                f"which trains it from its beginning."
            )
    if changed:
        write_json(directory / "allowed.json", {"fields": sorted({*allow, *allowed_fields(directory)})})
        bring_back(all_cells(experiment), directory, experiment.population_size)
        if old and goes_on:
            _carry_over(old, experiment, directory)
        write_json(path, data)
        (directory / "result.json").unlink(missing_ok=True)
    return told


def _seal_as_it_stands(directory: Path) -> str:
    """Seals the files of a sweep of a release without seals, experiment.json last, and returns a sentence about it.

    From then on a file without a seal is known to have lost it.
    """
    home, old = directory / "experiment.json", []
    if must_be_sealed(home) or (home.exists() and not {"name", "trunks"} <= _unsealed_object(home).keys()):
        return ""
    own = [path for pattern in ("*.json", "*.head", "runs/*/*.json") for path in sorted(directory.glob(pattern))]
    for path in sorted(own, key=lambda path: path == home):
        if data := _unsealed_object(path):
            old.append((path, data))
    for path in sorted(directory.glob("runs/*/*.jsonl")) if old else ():
        with contextlib.suppress(OSError, ValueError):
            lines = read_plain(path).decode(errors="replace").splitlines(keepends=True)
            rows = (row_of(line) for line in lines)
            write_whole(path, "".join(checked_line(r) if r else line for r, line in zip(rows, lines, strict=True)))
    for path, data in old:
        write_json(path, data)
    return f"{len(old)} files of a release that sealed none are sealed from here on, as they stood" if old else ""


def _is_strangers(path: Path) -> bool:
    """Returns whether an experiment.json is whole, and of another program."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        data = json.loads(read_plain(path))
        return not (has_seal(data) or (isinstance(data, dict) and {"name", "trunks"} <= data.keys()))
    return False


def _unsealed_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object of a file without a seal; an empty one where there is a seal, or damage, told later."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        data = json.loads(read_plain(path))
        if path.name == "allowed.json" and isinstance(data, list):
            return {"fields": data}
        return data if isinstance(data, dict) and not has_seal(data) else {}
    return {}


def _not_of_a_sweep(directory: Path) -> list[str]:
    """Returns what lies in a directory without experiment.json that no sweep, killed or damaged, leaves there.

    Runs with their records or configs, or the note of what they were made with, say that it is one; else only what a
    first second leaves is taken for one.
    """
    if any(any(directory.glob(pattern)) for pattern in (MADE_WITH, "runs/*/record.json", "runs/*/config.json")):
        return []
    names = {item.name for item in directory.iterdir() if not _is_leftover(item.name)}
    strangers = [] if not (runs := directory / "runs").is_dir() else [item.name for item in runs.iterdir()]
    if not all(_is_leftover(name) or (runs / name / "claim.lock").exists() for name in strangers):
        return ["runs"]
    return sorted(names - LEFT)


def _is_leftover(name: str) -> bool:
    """Returns whether a name is that of a write that was cut off, or of a sign of life."""
    return name.endswith(".tmp") or name.startswith((".beat-", ".process-", ".now.")) or bool(CUT_OFF.match(name))


def _leaves_steps_alone(field: str) -> bool:
    """Returns whether a run's numbers are those of one from the start, when it goes on with another such field."""
    return field.startswith("trunks[") and field.split("].")[-1].split(".")[0].split("[")[0] in NOT_IDENTITY


def allowed_fields(directory: Path) -> tuple[str, ...]:
    """Returns the fields in which checkpoints of a sweep may differ from its config, as the user has allowed so far."""
    path = directory / "allowed.json"
    known = read_json(path, kind=object) if path.exists() else []
    return tuple(known["fields"] if isinstance(known, dict) else known)  # a list had no seal


def _continued(old: Experiment, new: Experiment, directory: Path) -> list[tuple[TrainConfig, TrainConfig]]:
    """Returns the runs whose config changed and that have a checkpoint to go on from: (before, after) of each."""
    pairs = zip(old.trunks, new.trunks, strict=True) if len(old.trunks) == len(new.trunks) else ()
    runs = directory / "runs"
    return [
        (before, after)
        for before, after in pairs
        if before != after
        and not (runs / trunk_id(after)).exists()
        and (runs / trunk_id(before) / "checkpoints").is_dir()
    ]


def _carry_over(old: Experiment, new: Experiment, directory: Path) -> None:
    """Gives each run whose config changed the checkpoints of the run it replaces, to go on from there.

    The points of a law are those of their config from the first step on: where one is fitted, this is done only for
    fields that change no step.
    """
    for before, after in _continued(old, new, directory):
        source, target = (directory / "runs" / trunk_id(config) for config in (before, after))
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source / "checkpoints", partial / "checkpoints", symlinks=True)
        if (source / "metrics.jsonl").exists():
            shutil.copy(source / "metrics.jsonl", partial / "metrics.jsonl")
        other = differences(run_identity([before]), run_identity([after]))
        write_json(partial / "continued.json", {"from": source.name, "changed": list(map(show, other))})
        partial.rename(target)
