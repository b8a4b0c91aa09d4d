"""What several verbs take in the same words: counts such as 7B, and NAME=VALUE pairs."""

import re
from typing import Annotated, Any

import tyro

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def count(text: str) -> float:
    """Returns a number such as 7e9, 7B, 1.5T or 125M; ValueError otherwise."""
    number = text.strip().replace(",", "").replace("_", "")
    unit = number[-1:].upper() if number[-1:].upper() in UNITS else ""
    try:
        return float(number[: len(number) - len(unit)]) * UNITS[unit]
    except ValueError:
        raise ValueError(f"{text!r} is no number, expected one such as 7e9, 7B, 1.5T or 125M") from None


Count = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER",
        instance_from_str=lambda given: count(given[0]),
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [f"{value:g}"],
    ),
]
"""A number that may be written as 7B."""


OUTSIDE = r""",(?=(?:[^`'"()]|`[^`]*`|'[^']*'|"[^"]*"|\((?:[^()]|\([^()]*\))*\))*$)"""
"""A comma that stands in no quotes and no parentheses."""


def pairs(text: str, option: str) -> dict[str, str]:
    """Returns {"a": "b"} for "a=b,..."; ValueError naming the option otherwise."""
    out = {}
    for part in filter(None, (each.strip() for each in re.split(OUTSIDE, text))):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--{option} {text!r}: expected NAME=VALUE,NAME=VALUE, got {part!r}.")
        out[name.strip()] = value.strip()
    return out


def numbers(text: str, option: str, or_names: bool = False) -> dict[str, Any]:
    """Returns {"a": 1.0} for "a=1,...", with `or_names` also {"a": "b"} for "a=b"; ValueError naming the option
    otherwise."""
    try:
        found = pairs(text, option).items()
        return {name: value if or_names and value.isidentifier() else count(value) for name, value in found}
    except ValueError:
        raise ValueError(f"--{option} {text!r}: expected NAME=NUMBER,NAME=NUMBER.") from None
