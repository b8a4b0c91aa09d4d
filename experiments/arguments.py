"""What several verbs take in the same words: NAME=VALUE pairs, and counts such as 7B."""

import re
from typing import Annotated, Any

import tyro

SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def number(text: str) -> float:
    """Returns 7e9 for "7e9", "7B" or "7 b"; ValueError otherwise."""
    found = re.fullmatch(r"(.*\d\.?)\s*([kmbt])", text.strip(), re.IGNORECASE)
    return float(found[1]) * SUFFIXES[found[2].lower()] if found else float(text)


Count = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda texts: number(texts[0]),
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
        return {name: value if or_names and value.isidentifier() else number(value) for name, value in found}
    except ValueError:
        raise ValueError(f"--{option} {text!r}: expected NAME=NUMBER,NAME=NUMBER.") from None
