"""What in a sweep's directory counts for the experiment that is there now: its folders, its text, its release."""

import importlib.metadata
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kleiber.experiments.directory.record import RunRecord
from kleiber.experiments.directory.release import PACKAGES, TRAINING_ROOMS, code_digests
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import TrunkCell, cell_records, group_id, populations
from kleiber.files import read_json, write_json
from kleiber.parallel.environment import numeric_settings
from kleiber.scaling.own_law.function import file_digest
from kleiber.train.checkpoints.identity import is_allowed

MADE_WITH = "made_with.json"
"""What the runs of a directory were made with beside their configs: texts, versions, code. Noted at the first launch,
and whenever another is allowed."""
REPLACED = "replaced"
"""The folder of runs that are not of the experiment now. Those that come back to it come back from there."""


def bring_back(cells: list[TrunkCell], directory: Path, population_size: int) -> None:
    """Moves the folders of the cells' runs that an earlier launch set aside back into runs/."""
    for name in _own_names(cells, population_size):
        source, target = directory / REPLACED / name, directory / "runs" / name
        if source.is_dir() and not target.exists():
            target.parent.mkdir(exist_ok=True)
            source.rename(target)


def set_aside(cells: list[TrunkCell], directory: Path, population_size: int) -> list[str]:
    """Moves every folder of runs/ that belongs to no cell out of it, and returns their names."""
    own = _own_names(cells, population_size)
    runs = directory / "runs"
    strays = [path for path in sorted(runs.iterdir()) if path.is_dir() and path.name[0] != "."] if runs.is_dir() else []
    return [_move(path, directory) for path in strays if path.name not in own]


def _own_names(cells: list[TrunkCell], population_size: int) -> set[str]:
    own = {name for cell in cells for name in (cell.trunk_id, *cell.run_ids.values())}
    for split in ("fit", "target", "start"):
        own |= {group_id(g) for g in populations([c for c in cells if c.split == split], population_size)}
    return own


def _move(folder: Path, directory: Path, is_final: bool = False) -> str:
    """Moves a folder to replaced/ as NAME, or as NAME.1, which no later launch brings back; returns its name."""
    place = directory / REPLACED / folder.name
    place.parent.mkdir(exist_ok=True)
    numbers = itertools.count(1)
    while is_final or place.exists():
        is_final, place = False, place.with_name(f"{folder.name}.{next(numbers)}")
    folder.rename(place)
    return folder.name


def text_key(cell: TrunkCell) -> str:
    """Returns the name of what a cell reads, such as `cloud-docs as bytes`, or of the files of its program."""
    if cell.config.command:
        return f"program {' and '.join(_program_files(cell))}"
    return f"{cell.config.data.corpus} as {cell.config.data.tokenizer}"


def _program_files(cell: TrunkCell) -> list[str]:
    """Returns the first two files that a command names, as a script and its config; none are of this interpreter."""
    assert cell.config.command
    named = cell.config.command.arguments(cell.config)
    return [name for name in named if name != sys.executable and Path(name).is_file()][:2]


def text_facts(cells: Iterable[TrunkCell]) -> dict[str, str | None]:
    """Returns the fingerprint of each text that cells read, and program that they run, by its text_key; None where it
    cannot be told.

    A text file that changed and was not prepared yet has "not prepared".
    """
    from kleiber.train.data.corpora.catalogue import find_corpus, prepared_folder
    from kleiber.train.data.corpora.prepared import read_corpus_manifest
    from kleiber.train.data.tokens import fingerprint

    facts: dict[str, str | None] = {}
    for cell in cells:
        key = text_key(cell)
        if key in facts:
            continue
        facts[key] = None
        if cell.config.command:
            facts[key] = " ".join(file_digest(name)[:16] for name in _program_files(cell)) or None
            continue
        try:
            corpus = find_corpus(cell.config.data.corpus)
            folder = prepared_folder(corpus)
            if folder is not None:
                facts[key] = fingerprint(folder, read_corpus_manifest(folder), cell.config.data.tokenizer)
            elif corpus.kind == "file":
                facts[key] = "not prepared"
        except (OSError, ValueError):  # gone since: nothing to compare
            continue
    return facts


def check_text(cells: list[TrunkCell], directory: Path, population_size: int, allow: tuple[str, ...]) -> list[str]:
    """Compares the texts that cells read with those that the directory's runs were made of.

    Returns:
      The names of runs that were set aside because another text is allowed; they are trained anew.

    Raises:
      ValueError: a text is another, and `data` is not allowed; names the corpus and both fingerprints.
    """
    facts, known = text_facts(cells), made_with(directory).get("data", {})
    changed = {k: known[k] for k, new in facts.items() if new and known.get(k, new) != new}
    read = {name: text_key(cell) for cell in cells for name in cell.run_ids.values()}
    for record in cell_records(cells, directory):
        key = read[record.run_id]
        if record.data_fingerprint and facts.get(key) and record.data_fingerprint != facts[key]:
            changed[key] = record.data_fingerprint
    if changed and not is_allowed("data", allow):
        told = "; ".join(f"{key} was {old}, and is {facts[key]} now" for key, old in changed.items())
        raise ValueError(
            f"{directory} holds runs of another text or program: {told}. Restore it, use another --out, or train those "
            "runs anew with what there is now: --allow data"
        )
    moved = []
    stale = [cell for cell in cells if text_key(cell) in changed]
    for name in sorted(_own_names(stale, population_size)):
        if (folder := directory / "runs" / name).is_dir():
            moved.append(_move(folder, directory, is_final=True))
    for folder in list((directory / REPLACED).glob("*")) if changed else ():  # of the old text: none of them comes back
        if "." not in folder.name:
            _move(folder, directory, is_final=True)
    _note(directory, data={**known, **{k: v for k, v in facts.items() if v}})
    return moved


def check_release(records: list[RunRecord], directory: Path, allow: tuple[str, ...]) -> str:
    """Compares versions, code and variables that change numbers with those that trained the directory's runs so far;
    asked when some are to train.

    Returns:
      A sentence about the difference that is allowed, or nothing.

    Raises:
      ValueError: they differ, and `versions` is not allowed.
    """
    now = {name: importlib.metadata.version(name) for name in PACKAGES}
    now |= {f"code of {room}": digest for room, digest in code_digests().items() if room in TRAINING_ROOMS}
    now["variables"] = " ".join(f"{name}={value}" for name, value in numeric_settings().items()) or "none"
    known = made_with(directory).get("versions") or _recorded(records)
    changed = [f"{name} {known[name]} -> {now[name]}" for name in now if known.get(name, now[name]) != now[name]]
    if changed and not is_allowed("versions", allow):
        raise ValueError(
            f"{directory} holds runs that another release trained: {', '.join(changed)}. Runs of both would stand in "
            "one table. Install what trained them, use another --out, or let them count together: --allow versions"
        )
    _note(directory, versions=now)
    return f"from here on with {', '.join(changed)}; the runs before count too" if changed else ""


def own_laws(experiment: Experiment) -> dict[str, str]:
    """Returns a digest of each file with a law of the user's own, by its path as the experiment has it."""
    paths = [law.rpartition(":")[0] for law in experiment.laws if ".py:" in law]
    return {path: file_digest(path)[:16] or "missing" for path in paths}


def _recorded(records: list[RunRecord]) -> dict[str, str]:
    """Returns the versions that the first trained record names, for a directory older than made_with.json."""
    row = next((r.to_json() for r in records if r.code_version), {})
    found = {
        name: row.get("code_version" if name == "kleiber" else f"{name.replace('-', '_')}_version") for name in PACKAGES
    }
    return {name: version for name, version in found.items() if version}


def made_with(directory: Path) -> dict[str, Any]:
    """Returns what the runs of a directory were made with: `data`, fingerprints by text_key, and `versions`."""
    path = directory / MADE_WITH
    return read_json(path) if path.exists() else {}


def _note(directory: Path, **facts: Any) -> None:
    """Writes what is not noted yet, or no longer so."""
    known = made_with(directory)
    if {**known, **facts} != known:
        write_json(directory / MADE_WITH, {**known, **facts})
