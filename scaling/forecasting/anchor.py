"""Hashes of a ledger that were noted elsewhere, and whether it still holds them.

Each line's hash depends on all lines before it, so a hash that somebody else keeps fixes them, against those too who
would compute the whole chain anew.
"""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kleiber.files import read_json, read_plain, write_whole
from kleiber.scaling.forecasting.ledger import Ledger, LedgerError, LedgerTamperedError
from kleiber.scaling.forecasting.scoreboard import standing


def head_note(ledger: Ledger) -> dict[str, Any]:
    """Returns the number of lines of an intact ledger, the last hash, and the time, to be kept elsewhere.

    Raises:
      LedgerError: it is empty, or not intact.
    """
    entries = ledger.entries()
    if not entries:
        raise LedgerError(f"{ledger.path} is empty: there is no forecast to fix.")
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return {"ledger": ledger.path.name, "lines": len(entries), "hash": entries[-1]["hash"], "noted_at": time}


def note_head(ledger: Ledger, path: Path) -> dict[str, Any]:
    """Adds a head_note, as a line of JSON, to a file, and returns it."""
    note = head_note(ledger)
    before = read_plain(path) if path.exists() else b""
    write_whole(path, before + json.dumps(note).encode() + b"\n")
    return note


def check_notes(ledger: Ledger, path: Path) -> int:
    """Returns how many notes a file has of a ledger that still holds them all.

    Raises:
      LedgerTamperedError: a line that was noted is another now, or gone.
      LedgerError: the file holds no notes.
    """
    hashes = [entry["hash"] for entry in ledger.entries()]
    try:
        notes = [json.loads(line) for line in read_plain(path).decode().splitlines() if line.strip()]
        told = [(int(note["lines"]), str(note["hash"]), str(note.get("noted_at"))) for note in notes]
    except (ValueError, KeyError, TypeError, AttributeError):
        told = []
    if not told:
        raise LedgerError(f"{path} holds no notes of a ledger, expected lines that `kleiber ledger --anchor` wrote.")
    for count, noted, time in told:
        if hashes[count - 1 : count] != [noted]:
            raise LedgerTamperedError(f"{ledger.path}: line {count} is not the one that {path} noted at {time}.")
    return len(told)


def check_heads(ledger: Ledger) -> list[dict[str, Any]]:
    """Returns the entries of a ledger in a sweep's directory, compared with the hashes that its targets noted.

    The last line that a target's run saw when it began stands in begun.json, its record and its checkpoints. It must
    stand in the chain, after the forecast it tests; a late forecast was written when the run had begun, so its run
    noted nothing of it.

    Raises:
      LedgerTamperedError: the ledger is not intact, or was written anew since a target began.
    """
    entries = ledger.entries()
    position = {entry["hash"]: number for number, entry in enumerate(entries)}
    for target, (forecast, outcome) in standing(entries).items():
        run_id = forecast.get("run_id") or (outcome or {}).get("run_id")
        if forecast.get("late") or not run_id:
            continue
        for noted, path in _noted_heads(ledger.path.parent, run_id):
            if position.get(noted, -1) < position[forecast["hash"]]:
                raise LedgerTamperedError(
                    f"{ledger.path}: the forecast of {target} is not the one that stood there when its run began: the "
                    f"last line was {noted[:12]} then ({path.name} of {path.parent.name})."
                )
    return entries


def _noted_heads(directory: Path, run_id: str) -> Iterator[tuple[str, Path]]:
    """Yields (hash, file) of every note that the run of a target made of the ledger, its checkpoints' included."""
    begun, record = noting_files(directory, run_id)
    for path in filter(Path.exists, (begun, record)):
        if noted := read_json(path).get("ledger_head"):
            yield noted, path
    trunk = begun.parent.name
    for folder in (begun.parent, *begun.parent.parent.glob("population-*")):
        for path in folder.glob("checkpoints/*/step_*/manifest.json"):
            with contextlib.suppress(ValueError, KeyError, AttributeError):  # a damaged one is told when it is restored
                if noted := read_json(path)["extra"]["ledger_heads"].get(trunk):
                    yield noted, path


def noting_files(directory: Path, run_id: str) -> tuple[Path, Path]:
    """Returns the files of a target's run that note the ledger's last hash: when it begins, and in its record."""
    runs, run_id = directory / "runs", Path(run_id).name
    return runs / run_id.rpartition("-D")[0] / "begun.json", runs / run_id / "record.json"
