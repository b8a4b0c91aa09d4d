"""What the doctor says of a directory: findings, the remedy of each kind of file, and how a file is looked at."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kleiber.files import json_of, read_plain
from kleiber.scaling.fitting.result import read_fits

PROGRAM = "program"
"""What may be allowed where programs were edited: runs that are done count beside those of the program as it is now."""
REMEDY = f"--retry-failed --allow {PROGRAM}"
"""Trains what failed with the program as it is now, and keeps what is done."""
SAME_LINE = "type the line that made this directory again"
AGAIN = {
    "plan.json": f"remove it and result.json, and {SAME_LINE}: it is made again",
    "fit.json": f"remove it and result.json, and {SAME_LINE}: it is made again from the records",
    "result.json": f"remove it and {SAME_LINE}: it is made again from the records",
    "allowed.json": f"remove it and {SAME_LINE}, with every --allow that it was given",
    "made_with.json": f"remove it and {SAME_LINE}: text and versions are those that the records name",
    "launch.json": "remove it: each launch writes its own",
    "sweep.json": "remove it, once nothing works here any more: each launch writes its own",
}
"""What to do about a damaged file of a sweep, by its name."""
OF_A_RUN = {
    **dict.fromkeys(("config.json", "progress.json", "attempts.json"), "remove it; nothing measured depends on it"),
    "begun.json": "remove it: record and checkpoints note the ledger too",
    "continued.json": f"remove the folder of this run and {SAME_LINE}: it is trained from its start",
}
"""The same, of a run."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written."""

    path: str
    """Relative to the directory."""
    kind: Literal["damaged", "leftover", "note"]
    """Damage needs a decision or costs work; a leftover of a kill goes by itself; a note is worth knowing."""
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found."""

    directory: str
    checked: dict[str, int]
    """How many records, checkpoints, logs and so on were looked at."""
    findings: tuple[Finding, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is damaged."""
        return all(finding.kind != "damaged" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Returns the diagnosis as JSON data."""
        findings = [asdict(finding) for finding in self.findings]
        return {"directory": self.directory, "healthy": self.is_healthy, "checked": self.checked, "findings": findings}


def read_data(path: Path, kind: type = dict) -> tuple[Any, str]:
    """Returns (the JSON of a file, its seal checked, "") or (an empty object, what is wrong)."""
    try:
        return json_of(read_plain(path), kind=kind, path=path), ""
    except FileNotFoundError:
        return {}, "missing"
    except (OSError, ValueError, RecursionError) as problem:
        return {}, f"not whole JSON ({str(problem)[:200]})"


def fit_problem(directory: Path) -> str:
    """Returns why the fit of a directory cannot be used; nothing if it can."""
    try:
        read_fits(directory)
    except (OSError, ValueError) as problem:
        return str(problem)
    return ""


def listed(numbers: list[int]) -> str:
    """Returns numbers of lines in words, the first of many."""
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def without(lines: list[int], path: Path) -> str:
    """Returns the command that takes lines out of a file."""
    return f"sed -i '{';'.join(f'{number}d' for number in sorted(lines))}' {shlex.quote(str(path))}"
