"""What an experiment varies: every field in which its trunks differ is a factor, the seed alone is none."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

COLUMN_OF = {
    "model.d_model": "d_model",
    "model.num_layers": "num_layers",
    "model.vocab_size": "vocab_size",
    "model.seq_len": "seq_len",
    "model.compute_dtype": "dtype",
    "optimizer.learning_rate": "learning_rate",
    "optimizer.name": "optimizer",
    "optimizer.weight_decay": "weight_decay",
    "schedule.kind": "schedule",
    "data.corpus": "corpus",
    "data.tokenizer": "tokenizer",
    "batch_size": "batch_size",
}
"""Fields that every run record holds, and the column; any other field that varies gets the column factor.NAME."""
FIRST = ("factors", "data", "model", "optimizer")
"""Of two fields that vary together the one that stands first here names the factor."""
NO_FACTOR = ("seed", "evaluation.num_bytes", "command.num_params_total", "command.num_params_non_embedding")
LENGTH = "num_tokens"
SCALES = ("data.corpus", "objective", "masking.rate", "masking.span")
"""Fields that say which text a run is scored on, and by which task."""
Level = float | int | str | bool | tuple | None


@dataclass(frozen=True)
class Factor:
    """A field that varies over the trunks of an experiment."""

    name: str
    """As in tables: its column of the run record, else the last part of its path, unless two fields share that."""
    path: str
    """Of the field, such as `optimizer.learning_rate`; `factors.NAME` for one of the experiment's own."""
    values: tuple[Level, ...]
    """[trunks], the level of each."""
    goes_with: tuple[str, ...] = ()
    """Other fields that change with it and only with it: names and paths."""

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The distinct levels: numbers increasing, no before yes, anything else in the order of the trunks."""
        distinct = list(dict.fromkeys(self.values))
        ordered = [each for each in distinct if isinstance(each, int | float)]
        return tuple(sorted(ordered)) if len(ordered) == len(distinct) else tuple(distinct)

    @property
    def column(self) -> str:
        """The column of the run record that holds its level."""
        own = self.path.startswith("factors.")
        return self.name if own or self.path in COLUMN_OF or self.path == LENGTH else f"factor.{self.name}"

    @cached_property
    def in_column(self) -> dict[Level, float | str | None]:
        """Each level as its column holds it: a number or None, or text where any level is no number."""
        if all(each is None or is_number(each) for each in self.levels):
            return {level: level for level in self.levels}  # type: ignore[misc]
        return {level: str(level) if is_number(level) else level_words(level) for level in self.levels}

    @cached_property
    def of_column(self) -> dict[float | str | None, Level]:
        """Each level by what its column holds."""
        return {held: level for level, held in self.in_column.items()}

    @property
    def scales(self) -> list[str]:
        """What tells that losses of its levels cannot be compared: fields that change what a run is scored on."""
        return [path for path in (self.path, *self.goes_with) if path in SCALES]

    def is_called(self, word: str) -> bool:
        """Returns whether a word names this factor: itself, its path or field, its column, or what goes with it."""
        return word in (self.name, self.path, self.path.rpartition(".")[2], self.column, *self.goes_with)


def is_number(value: Any) -> bool:
    """Returns whether a level is a number, not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def varied_fields(trunks: Sequence[Any], is_asked: Callable[[str], bool] = lambda path: False) -> list[Factor]:
    """Returns the factors of an experiment, num_tokens among them where trunks differ in length.

    What only follows from another field, as heads from the width, is no factor of its own: it is named in `goes_with`.

    Args:
      trunks: TrainConfigs, or the same as JSON data (experiment.json).
      is_asked: of two fields that vary together, none of them a factor of the experiment's own, the one of which this
        holds names the factor.
    """
    columns = {path: values for path, values in _columns(list(trunks), "").items() if path not in NO_FACTOR}

    def rank(path: str) -> tuple[bool, ...]:
        own, *rooms = (path.split(".")[0] != each for each in FIRST)
        return (path == LENGTH, own, not is_asked(path), *rooms)

    order = sorted(columns, key=rank)
    order = [path for path in order if not _is_label(path, columns)]
    distinct = len(set(zip(*columns.values(), strict=True))) if columns else 0
    is_named = {path: path.startswith("factors.") and isinstance(columns[path][0], str) for path in order}
    above = {path: math.inf if is_named[path] else distinct for path in order}  # a name given on purpose tells all
    leaders: dict[str, list[str]] = {}
    for path in order:
        leader = next((each for each in leaders if _follows(columns[path], columns[each], above[each])), None)
        if leader is None:
            leaders[path] = []
        else:
            leaders[leader].append(path)
    tails = [path.rpartition(".")[2] for path in columns]

    def name(path: str) -> str:
        tail = path.rpartition(".")[2]
        return (
            path.removeprefix("factors.")
            if path[:8] == "factors."
            else COLUMN_OF.get(path) or (tail if tails.count(tail) == 1 and tail not in COLUMN_OF.values() else path)
        )

    return [
        Factor(name(path), path, tuple(columns[path]), tuple(dict.fromkeys(w for f in with_it for w in (name(f), f))))
        for path, with_it in leaders.items()
    ]


def _columns(configs: list[Any], path: str) -> dict[str, list[Level]]:
    """Returns the values [trunks] of every field that is not the same everywhere, by path."""
    found: dict[str, list[Level]] = {}
    for name in dict.fromkeys(name for config in configs for name in _names(config)):
        values = [_get(config, name) for config in configs]
        if all(value is values[0] for value in values):
            continue
        if name in ("start", "teacher") and not path:
            values = [_source_words(value) for value in values]
        place = f"{path}{name}"
        if name == "factors" and not path:
            own = [dict(value or ()) for value in values]
            found |= _columns(own, "factors.")
        elif any(_names(value) for value in values):
            inner = _columns(values, f"{place}.")
            if any(value is None for value in values):  # what is the same wherever it is there tells no more than that
                several = {path: each for path, each in inner.items() if len(set(each) - {None}) > 1}
                inner = several or dict(list(inner.items())[:1])
            found |= inner
        else:
            plain = [_frozen(value) for value in values]
            if any(value != plain[0] for value in plain):
                found[place] = plain
    return found


def _source_words(source: Any) -> str | None:
    """Returns a start or a teacher in words: its folder, or the trunk that is trained first, whatever its seed; and
    what is not usual of a teacher."""
    if source is None:
        return None
    words = _get(source, "run")
    if not words:
        train = _get(source, "train")
        model, data = _get(train, "model"), _get(train, "data")
        length = _get(source, "num_tokens") or _get(train, "num_tokens")[-1]
        shape = f"d{_get(model, 'd_model')}-L{_get(model, 'num_layers')}"
        words = f"{shape} after {length:,} tokens of {_get(data, 'corpus')}"
    told = {name: _get(source, name) for name in ("weight", "temperature")}
    return " ".join([words, *(f"{name} {value:g}" for name, value in told.items() if value not in (None, 1))])


def _names(config: Any) -> list[str]:
    if isinstance(config, dict):
        return list(config)
    return [field.name for field in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []


def _get(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, dict) else getattr(config, name, None)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _follows(values: list[Level], leader: list[Level], distinct: float) -> bool:
    """Returns whether values are told by those of another field.

    A field with a level of its own in every trunk tells all others; only what goes one to one with it follows it.
    """
    pairs, levels = set(zip(leader, values, strict=True)), set(leader)
    return len(pairs) == len(levels) and (len(set(values)) == len(levels) or len(levels) < distinct)


def _is_label(path: str, columns: dict[str, list[Level]]) -> bool:
    """Returns whether one of the experiment's own factors only names the combination of two others or more.

    They are then crossed, more than half of their grid: fields that change together, as those of a method do, are what
    the factor stands for.
    """
    others = [values for name, values in columns.items() if name != path]
    if not path.startswith("factors.") or len(others) < 2:
        return False
    combinations = set(zip(*others, strict=True))
    pairs = set(zip(columns[path], zip(*others, strict=True), strict=True))
    is_name = len(set(columns[path])) == len(combinations) == len(pairs)
    leaders = [v for i, v in enumerate(others) if not any(_follows(v, w, len(combinations)) for w in others[:i])]
    is_name = is_name and 2 * len(combinations) > math.prod(len(set(values)) for values in leaders)
    return is_name and not any(len(set(zip(columns[path], each, strict=True))) == len(set(each)) for each in others)


def level_words(value: Any) -> str:
    """Returns a level as people read it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, tuple) and all(isinstance(each, tuple) for each in value):  # shares of a mixture, groups
        return " and ".join(" ".join(map(level_words, each)) for each in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
