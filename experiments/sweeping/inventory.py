"""What in a sweep's directory counts for the experiment that is there now: its folders, its text, its release."""

import importlib.metadata
import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kleiber.experiments.directory.findings import PROGRAM, REMEDY
from kleiber.experiments.directory.record import RunRecord
from kleiber.experiments.directory.release import PACKAGES, TRAINING_ROOMS, code_digests
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import TrunkCell, cell_records, group_id, populations
from kleiber.experiments.sweeping.programs import program_fingerprint, program_key
from kleiber.files import read_json, write_json
from kleiber.parallel.environment import numeric_settings
from kleiber.scaling.own_law.function import file_digest
from kleiber.train.checkpoints.identity import is_allowed

MADE_WITH = "made_with.json"
"""What the runs of a directory were made with beside their configs: texts, versions, code. Noted at the first launch,
and whenever another is allowed."""
COUNTED = "programs"
"""Its key for the versions of a program whose runs were allowed to count together."""
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
        return program_key(cell.config)
    return f"{cell.config.data.corpus} as {cell.config.data.tokenizer}"


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
            facts[key] = program_fingerprint(cell.config)
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
    """Compares the texts and programs that cells read and run with those that the directory's runs were made of.

    Runs of another text are set aside, to be trained anew, where `data` is allowed; of an edited program those that are
    not whole, where `program` is allowed or nothing of it is done.

    Returns:
      A sentence on each thing that this changed.

    Raises:
      ValueError: one is another, and neither is allowed; names it and both fingerprints.
    """
    facts, known, counted = text_facts(cells), made_with(directory).get("data", {}), _counted_together(directory)
    changed = {k: known[k] for k, new in facts.items() if new and known.get(k, new) != new}
    keys = {name: text_key(cell) for cell in cells for name in cell.run_ids.values()}
    records = cell_records(cells, directory)
    for record in records:
        key, was = keys[record.run_id], record.data_fingerprint or record.program_fingerprint
        if was and facts.get(key) and was != facts[key] and was not in counted.get(key, ()):
            changed[key] = was
    kept = Counter(keys[record.run_id] for record in records if record.status != "failed")
    told = "; ".join(f"{key} was {old}, and is {facts[key]} now" for key, old in changed.items())
    programs = {text_key(cell) for cell in cells if cell.config.command}
    goes_on = changed.keys() <= programs and (is_allowed(PROGRAM, allow) or not any(kept[key] for key in changed))
    if changed and not goes_on and not is_allowed("data", allow):
        only = f"{REMEDY} (where only a program was edited: keeps what is done, trains the rest)"
        both = f" or {only}" if changed.keys() <= programs else ""
        raise ValueError(
            f"{directory} holds runs of another text or program: {told}. Restore it, use another --out, or train those "
            f"runs anew with what there is now: --allow data{both}"
        )
    goes_on = goes_on and not is_allowed("data", allow)
    stale = [c for c in cells if text_key(c) in changed and (not goes_on or c.missing(directory))]
    moved = _move_of(stale, directory, population_size, has_changed=bool(changed))
    data = {**known, **{k: v for k, v in facts.items() if v}}
    aside = f"{len(moved)} folders of runs of another text or program are set aside in {REPLACED}/, and trained anew"
    if not (goes_on and changed):
        _note(directory, data=data)
        return [aside] * bool(moved)
    alike = {key: {*counted.get(key, ()), *_programs_of(records, keys, key), old} for key, old in changed.items()}
    _note(directory, data=data, **{COUNTED: {**counted, **{key: sorted(each) for key, each in alike.items()}}})
    count = sum(kept[key] for key in changed)
    both = f"{count} points that are done count together with those from here on"
    return [f"{told}: {both if count else 'nothing of it was done'}", *[aside] * bool(moved)]


def _counted_together(directory: Path) -> dict[str, list[str]]:
    """Returns the versions of each program whose runs may count beside those of the program as it is now."""
    return made_with(directory).get(COUNTED, {})


def _programs_of(records: list[RunRecord], keys: dict[str, str], key: str) -> set[str]:
    return {r.program_fingerprint for r in records if keys[r.run_id] == key and r.program_fingerprint}


def _move_of(stale: list[TrunkCell], directory: Path, population_size: int, has_changed: bool) -> list[str]:
    """Sets the folders of cells aside for good, and what was there before with them, and returns their names."""
    names = [n for n in sorted(_own_names(stale, population_size)) if (directory / "runs" / n).is_dir()]
    moved = [_move(directory / "runs" / name, directory, is_final=True) for name in names]
    for folder in list((directory / REPLACED).glob("*")) if has_changed else ():  # of the old one: none comes back
        if "." not in folder.name:
            _move(folder, directory, is_final=True)
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
