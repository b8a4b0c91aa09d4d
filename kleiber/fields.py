"""What the fields of a config may hold: each is checked by its type, and by its range, where the config is made; and
configs read from JSON data."""

import contextlib
import dataclasses
import difflib
import functools
import json
import math
import numbers
import types
import typing
from collections.abc import Iterable
from typing import Any


def check_fields(config: Any, **ranges: str) -> None:
    """Checks every field of a dataclass, and puts plain Python values in place of numpy's, lists and whole floats.

    Args:
      config: a dataclass, in its __post_init__.
      **ranges: of some of its numbers, as an interval and perhaps what to do: `beta1="[0, 1)"`, or
        `clip_norm="(0, inf); None does not clip"`. The others must be finite.

    Raises:
      ValueError: naming the field, its value, and what was expected.
    """
    cls: Any = type(config)
    for name, hint in _hints(cls).items():
        given = getattr(config, name)
        if type(given) is hint and hint not in (int, float):  # most of them: an experiment may have thousands of trunks
            continue
        interval, _, advice = ranges.get(name, "").partition("; ")
        try:
            value = _sound(hint, given, interval)
        except _Unsound as problem:
            expected = str(problem).replace("NAME", name)
            if advice:
                expected = f"{expected.removesuffix(' or None')} ({advice})"
            raise ValueError(f"{name} is {given!r}, expected {expected}.".replace("?.", "?")) from None
        if value is not given:
            object.__setattr__(config, name, value)


class _Unsound(ValueError):
    """Says what was expected; NAME stands for the field."""


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def _sound(hint: Any, value: Any, interval: str) -> Any:
    """Returns a value as the plain one of its type, or raises _Unsound."""
    origin, args = _parts(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_sound(args, value, interval)
    if origin is typing.Literal:
        if value in args:
            return value
        near = difflib.get_close_matches(str(value), args, n=1)
        raise _Unsound(" or ".join(map(str, args)) + (f"; did you mean '{near[0]}'?" if near else ""))
    if origin is tuple:
        if not isinstance(value, tuple | list):
            raise _Unsound("a list")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) != len(value):
            raise _Unsound(f"{len(kinds)} values")
        items = [_sound(kind, item, interval) for kind, item in zip(kinds, value, strict=True)]
        is_same = isinstance(value, tuple) and all(a is b for a, b in zip(items, value, strict=True))
        return value if is_same else tuple(items)
    if hint in (int, float):
        return _sound_number(hint, value, interval)
    if not isinstance(value, hint):
        raise _Unsound("None" if hint is type(None) else f"a {hint.__name__}")
    return value


def _first_sound(kinds: tuple[Any, ...], value: Any, interval: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    expected = []
    for kind in kinds:
        try:
            return _sound(kind, value, interval)
        except _Unsound as problem:
            expected.append(str(problem))
    raise _Unsound(" or ".join(dict.fromkeys(expected)))


def _sound_number(kind: type, value: Any, interval: str) -> int | float:
    low, high, has_low, has_high = _ends(interval or "(-inf, inf)")
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int and not (is_number and math.isfinite(value) and value == int(value)):
        raise _Unsound("a whole number" + (f", {_words(low, high, has_low, has_high)}" if interval else ""))
    inside = is_number and (low <= value if has_low else low < value) and (value <= high if has_high else value < high)
    if not inside:
        raise _Unsound(_words(low, high, has_low, has_high))
    return value if type(value) in (int, kind) else kind(value)


@functools.cache
def _ends(interval: str) -> tuple[float, float, bool, bool]:
    """Returns (low, high, whether low is inside, whether high is inside) of an interval such as `[0, 1)`."""
    low, high = interval[1:-1].split(",")
    return float(low), float(high), interval[0] == "[", interval[-1] == "]"


def _words(low: float, high: float, has_low: bool, has_high: bool) -> str:
    if high == math.inf:
        return "a finite number" if low == -math.inf else f"at least {low:g}" if has_low else "a positive number"
    return f"{low:g} {'<=' if has_low else '<'} NAME {'<=' if has_high else '<'} {high:.10g}"


def from_data(cls: Any, data: Any, name: str = "config") -> Any:
    """Returns data, as JSON holds it, as an object of type cls (a dataclass, tuple, union or plain value).

    Args:
      cls: a type, or a type hint.
      data: JSON data; it is only looked at, never run or imported.
      name: of the field, for messages.

    Raises:
      ValueError: an unknown field (with the nearest name), a missing one, or a value of another kind.
    """
    origin, args = typing.get_origin(cls), typing.get_args(cls)
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        if not isinstance(data, dict):
            raise _OtherKind(f"{name} is {_short(data)}, expected the fields of {cls.__name__}")
        hints = type_hints(cls)
        for field in data:
            if field not in hints:
                raise ValueError(unknown_field(field, hints, cls.__name__))
        values = {field: from_data(hints[field], value, field) for field, value in data.items()}
        try:
            return cls(**values)
        except TypeError as mistake:
            raise ValueError(f"{name}: {mistake}") from None
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise _OtherKind(f"{name} is {_short(data)}, expected a list")
        kinds = [args[0]] * len(data) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(kinds) != len(data):
            raise ValueError(f"{name} has {len(data)} values, expected {len(kinds)}")
        return tuple(from_data(kind, item, name) for kind, item in zip(kinds, data, strict=True))
    if origin in (typing.Union, types.UnionType):
        for kind in args:
            with contextlib.suppress(_OtherKind):
                return from_data(kind, data, name)
        raise _OtherKind(f"{name} is {_short(data)}, expected {cls}")
    return _plain(cls, data, name)


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields: worked out once, as an experiment may have thousands of trunks."""
    return typing.get_type_hints(cls)


class _OtherKind(ValueError):
    """A plain value is of another kind than its field."""


def _plain(kind: Any, data: Any, name: str) -> Any:
    if typing.get_origin(kind) is typing.Literal:
        fits = isinstance(data, str) and data in typing.get_args(kind)
    elif kind is float:
        fits = isinstance(data, int | float) and not isinstance(data, bool)
    elif kind is int:
        fits = isinstance(data, int) and not isinstance(data, bool)
    elif kind in (type(None), None):
        fits = data is None
    else:
        fits = isinstance(data, kind) if isinstance(kind, type) else True
    if not fits:
        raise _OtherKind(f"{name} is {_short(data)}, expected {getattr(kind, '__name__', kind)}")
    return data


SYNONYMS = {
    **dict.fromkeys(("max_iters", "max_steps", "steps", "iters", "iterations", "train_steps"), "num_steps"),
    **dict.fromkeys(("n_embd", "hidden_size", "width", "dim"), "d_model"),
    **dict.fromkeys(("n_layer", "n_layers", "num_hidden_layers", "depth"), "num_layers"),
    **dict.fromkeys(("n_head", "n_heads", "num_attention_heads"), "num_heads"),
    **dict.fromkeys(("block_size", "context", "context_length", "sequence_length", "max_length"), "seq_len"),
    **dict.fromkeys(("lr", "rate"), "learning_rate"),
    **dict.fromkeys(("tokens", "n_tokens", "max_tokens"), "num_tokens"),
}
"""What other programs call a field, by our name; for hints alone."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns which of some names was meant by another: its synonym, or one spelt much like it; nothing if none is."""
    names = list(known)
    if (ours := SYNONYMS.get(name.rpartition(".")[2].lower().replace("-", "_"))) in names:
        return ours
    return next(iter(difflib.get_close_matches(name, names, n=1)), "")


def unknown_field(name: str, known: Any, owner: str) -> str:
    """Returns what to say of a field that its config does not have, with the nearest."""
    near = nearest(name, known)
    hint = f"did you mean '{near}'?" if near else f"it has {', '.join(known)}."
    return f"{owner} has no field '{name}'; {hint}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
