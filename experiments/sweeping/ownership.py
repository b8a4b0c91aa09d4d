"""Whose a sweep directory is: the experiment written down in it, and what may differ when it is taken up again."""

import shutil
from pathlib import Path

from kleiber.experiments.config_file import from_data, to_data
from kleiber.experiments.directory.record import trunk_id
from kleiber.experiments.experiment import Experiment
from kleiber.files import read_json, write_json
from kleiber.train.checkpoints.identity import allow_words, differences, is_allowed, run_identity, show, splice_problem
from kleiber.train.config import TrainConfig


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


def own_directory(experiment: Experiment, directory: Path, allow: tuple[str, ...] = ()) -> None:
    """Writes experiment.json into a new directory, or checks that the directory belongs to this experiment.

    Args:
      experiment: that wants the directory.
      directory: of a sweep, or empty.
      allow: fields that may differ; runs whose config they change go on from the checkpoint of the run they replace.

    Raises:
      ValueError: it belongs to another one; the message lists the differences. Or it leads elsewhere by a link.
    """
    path, data = directory / "experiment.json", to_data(experiment)
    runs = directory / "runs"
    if runs.is_symlink() or path.is_symlink():
        raise ValueError(f"{directory} leads elsewhere by a symbolic link; kleiber writes inside --out only.")
    if path.exists() and not (runs.is_dir() and any(runs.iterdir())):
        write_json(path, data)  # nothing was trained there yet: whoever corrects a config starts over
        return
    if not path.exists():
        known = ("sweep.lock", "sweep.json")
        others = [item.name for item in directory.iterdir() if item.name not in known and item.name[:5] != ".now."]
        if others:
            raise ValueError(f"{directory} is not empty and holds no sweep (it has {others[0]}); use another --out.")
        write_json(path, data)
        return
    old_data = read_json(path)
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
    for before, after in _continued(old, experiment, directory) if old and changed else ():
        if problem := splice_problem(before, after):
            raise ValueError(
                f"{trunk_id(before)} cannot go on as {trunk_id(after)}: {problem}. Use another --out, "
                f"which trains it from its beginning."
            )
    if changed:
        write_json(directory / "allowed.json", sorted({*allow, *allowed_fields(directory)}))
        if old is not None:
            _carry_over(old, experiment, directory)
        write_json(path, data)
        (directory / "result.json").unlink(missing_ok=True)


def allowed_fields(directory: Path) -> tuple[str, ...]:
    """Returns the fields in which checkpoints of a sweep may differ from its config, as the user has allowed so far."""
    path = directory / "allowed.json"
    return tuple(read_json(path)) if path.exists() else ()


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
    """Gives each run whose config changed the checkpoints of the run it replaces, to go on from there."""
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
        old_runs = directory / "replaced"  # out of the table, and still there to look at
        old_runs.mkdir(exist_ok=True)
        for folder in (directory / "runs").glob(f"{source.name}*"):
            folder.rename(old_runs / folder.name)
