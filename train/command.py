"""A training program of anybody's in place of kleiber's own trainer: its command line, and what it is told. No jax."""

import dataclasses
import shlex
import string
import sys
from dataclasses import dataclass
from typing import Any

from kleiber.fields import check_fields, nearest

RECORDS = ("record.jsonl", "record.csv", "record.json")
"""Files in which a program may leave its losses, the first that is there."""


@dataclass(frozen=True)
class Command:
    """A program that trains a trunk and leaves its losses in a folder; everything around it is as for our trainer.

    The record is a table, a row or object for each measurement: `loss` (mean nats per target token, on validation
    text) and, where there is more than one row, the `num_tokens` or the `step` that it was measured at. Rows at a token
    count of the trunk are its points, all others its curve. Further columns that the plan knows, such as
    `num_params_total` or `seed`, must say what the plan does. A .csv or .jsonl may grow while the program runs: its
    last row is then shown, and a loss that is no number ends the run as diverged.
    """

    line: str
    """Program and arguments, split as a shell does but run without one. `{d_model}` and any other field of the trunk,
    `{optimizer.beta1}` or a factor's name are filled in; so are `{folder}`, where the record goes and anything may be
    kept (the same folder after a stop), `{num_tokens}` (of the longest point, in whole steps), `{all_num_tokens}`
    (of every point, joined by commas), `{num_steps}` and `{python}`, this interpreter."""
    columns: str = ""
    """Our names to those of the record, as `kleiber fit --columns`: `loss=val/loss,num_tokens=step*8192`."""
    record: str = ""
    """The record's file in {folder}; empty: record.jsonl, record.csv or record.json."""
    num_params_total: int | None = None
    """Parameters that the program's model has; None: those of kleiber's model of these fields."""
    num_params_non_embedding: int | None = None
    """Without the embeddings; None: num_params_total less what kleiber's model has there."""
    num_cores: int = 1
    """Of the CPU, for one run; so many fewer run beside each other."""
    max_silent_seconds: float = 3600.0
    """Time without a new line of output or a changed file in {folder} after which it is ended and tried again."""

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("num_params_total", "num_params_non_embedding", "num_cores"), "[1, inf)")
        check_fields(self, max_silent_seconds="(0, inf)", **counts)
        if not self._parts():
            raise ValueError("command.line is empty, expected a program and its arguments.")
        if self.record.startswith("/") or ".." in self.record.split("/"):
            raise ValueError(f"command.record is {self.record!r}, expected the name of a file in {{folder}}.")

    @property
    def names(self) -> set[str]:
        """Names that the line has in braces."""
        parts = (piece for part in self._parts() for piece in string.Formatter().parse(part))
        return {name for _, name, _, _ in parts if name is not None}

    def arguments(self, config: Any, folder: str = "FOLDER") -> list[str]:
        """Returns the program and its arguments for a trunk.

        Args:
          config: TrainConfig of the trunk.
          folder: where the record goes.

        Raises:
          ValueError: a name in braces is no field of the trunk (with the nearest), or the field is None.
        """
        values = _values(config) | {"folder": folder, "python": sys.executable}
        return [_filled(part, values) for part in self._parts()]

    def _parts(self) -> list[str]:
        try:
            parts = shlex.split(self.line)
            for part in parts:
                list(string.Formatter().parse(part))
            return parts
        except ValueError as problem:
            raise ValueError(f"command.line {self.line!r}: {problem}; a brace itself is written twice.") from None


def _values(config: Any) -> dict[str, Any]:
    """Returns what may stand in braces: fields by path and, where no other has it, by the last part of the path."""
    found: dict[str, Any] = dict(_fields(config, ""))
    tails = [path.rpartition(".")[2] for path in found]
    found |= {tail: value for tail, value in zip(tails, list(found.values()), strict=True) if tails.count(tail) == 1}
    points = [config.steps_at(num_tokens) * config.tokens_per_step for num_tokens in config.num_tokens]
    found |= {"num_tokens": points[-1], "all_num_tokens": ",".join(map(str, points))}
    found |= {"num_steps": points[-1] // config.tokens_per_step}
    return found | dict(config.factors)


def _fields(config: Any, path: str) -> list[tuple[str, Any]]:
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("command", "factors"):
            continue
        if dataclasses.is_dataclass(value):
            found += _fields(value, f"{path}{field.name}.")
        else:
            found.append((path + field.name, value))
    return found


def _filled(part: str, values: dict[str, Any]) -> str:
    filled = ""
    for text, name, form, _ in string.Formatter().parse(part):
        filled += text
        if name is None:
            continue
        if name not in values:
            near = nearest(name, values)
            hint = f"did you mean {{{near}}}?" if near else "a brace itself is written twice."
            raise ValueError(f"the command has {{{name}}}, which is no field of a trunk nor one of its factors; {hint}")
        if values[name] is None:
            raise ValueError(f"the command has {{{name}}}, which is None here: give that field a value.")
        try:
            filled += format(values[name], form or "")
        except (ValueError, TypeError) as problem:
            raise ValueError(f"the command has {{{name}:{form}}}: {problem}.") from None
    return filled
