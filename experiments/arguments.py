"""What several verbs take in the same words: counts such as 7B, and NAME=VALUE pairs."""

from typing import Annotated

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
        return {name: count(value) for name, value in pairs(text, option).items()}
    except ValueError:
        raise ValueError(f"--{option} {text!r}: expected NAME=NUMBER,NAME=NUMBER.") from None
