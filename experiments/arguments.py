"""What several verbs take in the same words: NAME=VALUE pairs, and a fit."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kleiber.scaling.fitting.result import FitResult


def pairs(text: str, option: str) -> dict[str, str]:
    """Returns {"a": "b"} for "a=b,..."; ValueError naming the option otherwise."""
    out = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--{option} {text!r}: expected NAME=VALUE,NAME=VALUE, got {part!r}.")
        out[name.strip()] = value.strip()
    return out


def numbers(text: str, option: str) -> dict[str, float]:
    """Returns {"a": 1.0} for "a=1,..."; ValueError naming the option otherwise."""
    try:
        return {name: float(value) for name, value in pairs(text, option).items()}
    except ValueError:
        raise ValueError(f"--{option} {text!r}: expected NAME=NUMBER,NAME=NUMBER.") from None


def read_fits(path: str) -> "list[FitResult]":
    """Returns the fits of a JSON file written by `kleiber fit --json` or by a sweep."""
    from kleiber.scaling.fitting.result import FitResult

    file = Path(path)
    if file.is_dir():
        file = file / "fit.json"
    if not file.is_file():
        raise FileNotFoundError(f"there is no fit at {file}; write one with kleiber fit TABLE --json > {file}.")
    try:
        data = json.loads(file.read_text())
    except json.JSONDecodeError:
        raise ValueError(f"{file} is not JSON; write a fit with kleiber fit TABLE --json > FILE.") from None
    return [FitResult.from_json(each) for each in (data["fits"] if "fits" in data else [data, *data.get("rivals", [])])]
