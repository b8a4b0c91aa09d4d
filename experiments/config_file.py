"""Experiments as files and as data: load, write down, read back, compare, and change one field."""

import dataclasses
import difflib
import hashlib
import importlib.util
import json
import traceback
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kleiber.experiments.experiment import Experiment
from kleiber.fields import from_data, nearest, type_hints, unknown_field  # noqa: F401  from_data: to_data's other way
from kleiber.train.checkpoints.identity import said

CONFIGS = Path(__file__).parent / "configs"


def shipped() -> list[str]:
    """Returns the names of the experiments that ship with kleiber."""
    return sorted(path.stem for path in CONFIGS.glob("*.py") if not path.stem.startswith("_"))


def load_experiment(name: str) -> Experiment:
    """Returns the experiment of a config file.

    Args:
      name: path of a Python file with a function `experiment() -> Experiment`, or the name of a shipped one. The file
        is a program of the user's own and is run.

    Raises:
      ValueError: no such file or name (with the nearest), no such function, or a mistake in the config, whatever it
        raised (SystemExit included, Ctrl-C not), with its line.
    """
    path = Path(name).absolute()  # as tracebacks name it
    if not name.endswith(".py"):
        path = CONFIGS / f"{name}.py"
        if name not in shipped():
            near = difflib.get_close_matches(name, shipped(), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"no experiment '{name}'{hint} Shipped: {', '.join(shipped())}; or give the path of a .py file."
            )
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no config file {path}"
        raise ValueError(f"{what}; give a Python file with a function experiment() -> Experiment.")
    spec = importlib.util.spec_from_file_location(f"kleiber_config_{path.stem.replace('-', '_')}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "experiment"):
            raise ValueError("it has no function experiment() -> Experiment")
        result = module.experiment()
    except KeyboardInterrupt:
        raise
    except BaseException as mistake:
        raise ValueError(_told(mistake, path).replace(str(path), name)) from mistake
    if not isinstance(result, Experiment):
        raise ValueError(f"{path}: experiment() returned {type(result).__name__}, expected an Experiment.")
    return result


def _told(mistake: BaseException, path: Path) -> str:
    """Returns what a config file raised in one line, with the line of the file it came from, where there is one."""
    lines = [frame.lineno for frame in traceback.extract_tb(mistake.__traceback__) if frame.filename == str(path)]
    if isinstance(mistake, SyntaxError) and mistake.filename == str(path):
        lines.append(mistake.lineno)
    text = " ".join(_with_nearest_field(str(mistake)).split())
    if isinstance(mistake, SystemExit):
        text = f"it ends the program (sys.exit{f': {text}' if text else ''}); a config returns an Experiment"
    elif not isinstance(mistake, ValueError | TypeError | SyntaxError | ImportError | NameError | AttributeError):
        text = f"{type(mistake).__name__}: {text}" if text else type(mistake).__name__
    return f"{path}{f', line {lines[-1]}' if lines else ''}: {text}"


def _with_nearest_field(message: str) -> str:
    """Returns a constructor's complaint about an unknown field, with the nearest field's name added."""
    if "unexpected keyword argument" not in message:
        return message
    unknown = message.rsplit("'", 2)[1]
    near = nearest(unknown, sorted(_all_fields(Experiment)))
    return message + (f"; did you mean '{near}'?" if near else "")


def _all_fields(cls: type, seen: tuple[type, ...] = ()) -> set[str]:
    names = set()
    for name, hint in typing.get_type_hints(cls).items():
        names.add(name)
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part) and isinstance(part, type) and part not in seen:
                names |= _all_fields(part, (*seen, cls))
    return names


def to_data(config: Any) -> Any:
    """Returns a config dataclass as plain JSON data."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_hash(config: Any) -> str:
    """Returns 12 hexadecimal digits that change when any field of config does, and stay when a release adds one."""
    return hashlib.sha256(json.dumps(said(config), sort_keys=True).encode()).hexdigest()[:12]


def set_field(config: Any, assignment: str) -> Any:
    """Returns config with one field changed, as by `--set optimizer.learning_rate=0.01`.

    Raises:
      ValueError: not of the form field=value, an unknown field (with the nearest name), or a value of the wrong kind.
    """
    path, equals, text = assignment.partition("=")
    if not equals:
        raise ValueError(f"--set {assignment}: expected field=value, such as optimizer.learning_rate=0.01")
    return _replace(config, path.strip().split("."), text.strip())


def changed(experiment: Experiment, sets: Sequence[str] = (), grids: Sequence[str] = ()) -> Experiment:
    """Returns an experiment with fields changed: its own, or those of every trunk and target.

    Args:
      experiment: to change.
      sets: assignments such as optimizer.learning_rate=0.01, or keep_final=none.
      grids: such as optimizer.learning_rate=.004,.008: each trunk once for every value, and for every combination of
        several; targets stay. A list field takes its items joined by `+`.

    Raises:
      ValueError: as set_field.
    """
    for assignment in sets:
        if assignment.partition("=")[0].split(".")[0].strip() in type_hints(Experiment):
            experiment = set_field(experiment, assignment)
            continue
        trunks = tuple(set_field(trunk, assignment) for trunk in experiment.trunks)
        targets = tuple(dataclasses.replace(t, train=set_field(t.train, assignment)) for t in experiment.targets)
        experiment = dataclasses.replace(experiment, trunks=trunks, targets=targets)
    for grid in grids:
        name, _, values = grid.partition("=")
        levels = [f"{name}={value.replace('+', ',')}" for value in values.split(",")]
        trunks = tuple(set_field(trunk, level) for trunk in experiment.trunks for level in levels)
        experiment = dataclasses.replace(experiment, trunks=trunks)
    return experiment


def _replace(config: Any, path: list[str], text: str) -> Any:
    hints = typing.get_type_hints(type(config))
    name = path[0]
    if name not in hints:
        deeper = {each.rpartition(".")[2]: each for each in reversed(_paths(config))}  # the first of a name wins
        near = difflib.get_close_matches(name, deeper, n=1)
        if near:
            raise ValueError(f"{type(config).__name__} has no field '{name}'; did you mean '{deeper[near[0]]}'?")
        raise ValueError(unknown_field(name, hints, type(config).__name__))
    if len(path) > 1:
        if not dataclasses.is_dataclass(getattr(config, name)):
            raise ValueError(f"{name} of {type(config).__name__} has no fields, got .{'.'.join(path[1:])}")
        return dataclasses.replace(config, **{name: _replace(getattr(config, name), path[1:], text)})
    return dataclasses.replace(config, **{name: _parse(hints[name], text, name)})


def _paths(config: Any, before: str = "") -> list[str]:
    """Returns the dotted names of the fields of a config, each followed by those of the config that it holds."""
    found = []
    for field in dataclasses.fields(config):
        found.append(before + field.name)
        if dataclasses.is_dataclass(part := getattr(config, field.name)):
            found += _paths(part, f"{before}{field.name}.")
    return found


def _parse(kind: Any, text: str, name: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    try:
        if origin is typing.Literal:
            if text not in args:
                raise ValueError
            return text
        if origin in (typing.Union, types.UnionType):
            is_named = typing.get_origin(args[0]) is typing.Literal and text in typing.get_args(args[0])
            return None if text.lower() == "none" and not is_named else _parse(args[0], text, name)
        if origin is tuple:
            if args[-1] is Ellipsis:
                return tuple(_parse(args[0], item, name) for item in text.split(",") if item)
            return tuple(_parse(kind, item, name) for kind, item in zip(args, text.split(":"), strict=True))
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is int:
            return int(text) if "e" not in text.lower() and "." not in text else _whole(float(text))
        if kind in (float, str):
            return kind(text)
    except (ValueError, KeyError, OverflowError):
        pass
    expected = " or ".join(map(str, args)) if origin is typing.Literal else getattr(kind, "__name__", str(kind))
    raise ValueError(f"{name} is '{text}', expected {expected}")


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError
    return int(value)
