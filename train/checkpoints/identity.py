"""What a run is: the part of its config that its numbers depend on, and how two of them differ."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from kleiber.train.config import TrainConfig

NOT_IDENTITY = (
    "mesh",
    "accumulation_steps",
    "steps_per_call",
    "checkpoint_seconds",
    "keep_checkpoints",
    "stops_when_saving_fails",
    "checks_replicas",
    "evaluation",
    "num_tokens",
)
"""Fields that do not change what a step computes but for its rounding, or that say only where to stop."""
UNSAID = "(default)"


def run_identity(members: Sequence[TrainConfig]) -> dict[str, Any]:
    """Returns what a checkpoint must agree with to be continued, as JSON data: of one run, or of a population.

    Fields at their defaults are left out, so that a checkpoint outlives a release that adds a field.
    """

    def one(config: TrainConfig) -> dict[str, Any]:
        return {name: value for name, value in said(config).items() if name not in NOT_IDENTITY}

    return one(members[0]) if len(members) == 1 else {"members": [one(member) for member in members]}


def splice_problem(before: TrainConfig, after: TrainConfig) -> str:
    """Returns why a run cannot go on from the checkpoint of another as if it had been trained so; nothing if it can."""
    if before.tokens_per_step != after.tokens_per_step:
        new, old = after.tokens_per_step, before.tokens_per_step
        return f"a step of it takes {new:,} tokens where those done took {old:,}, and tokens are counted by steps"
    if after.schedule.kind == "cosine" and before.num_tokens != after.num_tokens:
        return "the cosine of another length is another one from its first step on"
    return ""


def said(config: Any) -> dict[str, Any]:
    """Returns the fields of a config dataclass that are not at their defaults, as JSON data."""

    def value_said(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return said(value)
        return [value_said(item) for item in value] if isinstance(value, tuple | list) else value

    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default:
            found[field.name] = value_said(value)
    return found


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Returns every place where two pieces of JSON data differ, as (path, old value, new value)."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = [(f"{path}.{key}" if path else key, old.get(key, UNSAID), new.get(key, UNSAID)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{path}[{index}]", a, b) for index, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [(path, old, new)]
    return [found for place, a, b in pairs for found in differences(a, b, place)]


def is_allowed(path: str, allow: tuple[str, ...]) -> bool:
    """Returns whether a difference at path is allowed by one of the fields, each the end or the start of a path.

    `optimizer.learning_rate` allows `trunks[0].optimizer.learning_rate`; `trunks` allows everything below it.
    """
    dotted = "." + path.replace("[", ".[") + "."
    return any(f".{field.replace('[', '.[')}." in dotted for field in allow if field)


def allow_words(found: Sequence[tuple[str, Any, Any]]) -> str:
    """Returns the options to type that allow these differences: each field once, whatever trunk and item it is of."""
    fields = (re.sub(r"\[\d+\]$", "", re.sub(r"^\w+\[\d+\]\.", "", path)) for path, _, _ in found)
    return " ".join(f"--allow {field}" for field in dict.fromkeys(fields))


def show(difference: tuple[str, Any, Any]) -> str:
    """Returns one difference as `path: old -> new`, for people."""
    path, old, new = difference
    return f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
