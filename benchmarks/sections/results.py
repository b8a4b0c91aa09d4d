"""Results kept by machine and commit, one JSON file each; sections measured at different times come together in it."""

import re
from pathlib import Path
from typing import Any

from kleiber.experiments.bench.session import FORMAT, summarised
from kleiber.files import read_json, write_json


def machine_name(machine: dict[str, Any]) -> str:
    """Returns the kind of machine as part of a file's name, such as `amd-epyc-2-cores`."""
    kind = machine["accelerator"] or f"{machine['processor']} {machine['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")


def result_path(folder: Path, machine: dict[str, Any]) -> Path:
    """Returns where the result of a machine and a commit is kept."""
    return folder / f"{machine_name(machine)}-{machine['commit']}.json"


def keep(folder: Path, result: dict[str, Any]) -> Path:
    """Writes a result whole or not at all, beside the sections already kept of this machine and commit.

    Returns:
      The path of the file.

    Raises:
      ValueError: a short result, which means nothing later.
    """
    if result["is_short"]:
        raise ValueError("a --short result is not kept: its shapes are tiny. Leave --short or --out out.")
    path = result_path(folder, result["machine"])
    if path.exists():
        before = read_result(path)
        result = summarised({**result, "sections": {**before["sections"], **result["sections"]}})
    write_json(path, result)
    return path


def read_result(path: Path) -> dict[str, Any]:
    """Returns one kept result.

    Raises:
      ValueError: it is damaged, or none of this bench's.
    """
    result = read_json(path)
    if not isinstance(result, dict) or result.get("format") != FORMAT or "sections" not in result:
        raise ValueError(f"{path} is no result of `kleiber bench` in format {FORMAT}; measure again with --out.")
    return result


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Returns every kept result of a folder, oldest first.

    Raises:
      ValueError: there is none.
    """
    results = [read_result(path) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise ValueError(f"{folder} holds no result; `kleiber bench --out {folder}` keeps one.")
    return sorted(results, key=lambda result: result["machine"]["date"])
