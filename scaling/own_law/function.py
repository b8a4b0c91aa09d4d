"""A user's function as a law: its columns, its constants with their bounds, and where it stands."""

import ast
import difflib
import hashlib
import importlib.machinery
import importlib.util
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.scaling.law import NUM_PARAMS, NUM_TOKENS, NUM_UNIQUE, Law, Origin, Parameter, Values, Variable
from kleiber.scaling.own_law.shape import Shape, by_differences, find_shape, read_shape

KNOWN = {each.name: each for each in (NUM_PARAMS, NUM_TOKENS, NUM_UNIQUE)}
POSITIVE = (0.0, np.inf)
EXAMPLE = "def my_law(num_params_total, num_tokens, *, E, A, alpha): return E + A / num_params_total**alpha"


def own_law(function: Callable[..., Any], path: str = "") -> Law:
    """Returns the law that a function states: its positional arguments are columns, its keyword-only ones constants.

    A constant is positive unless its annotation, or the dict `function.bounds`, says (low, high); starting values lie
    between the two if both are finite.

    Args:
      function: (columns [runs], constants [..., 1]) -> loss [..., runs], written in numpy.
      path: the file it was loaded from.

    Raises:
      ValueError: what is wrong with its arguments.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if not name.isidentifier():
        raise ValueError(f"a law needs a name, as in: {EXAMPLE}")
    columns, bounds = _arguments(function, name)
    origin = _origin(function, name, path)
    law = Law(
        id=name,
        title=(inspect.getdoc(function) or f"own law {name}").partition("\n")[0],
        formula=_formula(origin.source) or f"{name}({', '.join(columns)}; {', '.join(bounds)})",
        citation=f"own law, {origin.path or 'typed in'}",
        variables=tuple(_variable(each, columns) for each in columns),
        parameters=tuple(_parameter(each, pair) for each, pair in bounds.items()),
        linear=(),
        loss=partial(_loss, function, columns),
        floor="",
        origin=origin,
    )
    return replace(law, settle=lambda values: _shaped(law, find_shape(law, values)))


def load_law(place: str) -> Law:
    """Returns the law of a function in a user's file, given as "my_laws.py:my_law". The file is run.

    Raises:
      ValueError: no such file or function (with the nearest), or a file that cannot be run.
    """
    return own_law(load_callable(place, "law"), place.rpartition(":")[0])


def load_callable(place: str, what: str) -> Callable[..., Any]:
    """Returns a function or class of a user's file, given as "my_laws.py:my_law". The file is run.

    Args:
      place: of it.
      what: it is, for messages.

    Raises:
      ValueError: no such file or function (with the nearest), or a file that cannot be run.
    """
    path, _, name = place.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path} to take the {what} {name!r} from.")
    spec = importlib.util.spec_from_loader(f"kleiber_own_{what}", _AsItStands(f"kleiber_own_{what}", path))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as mistake:
        raise ValueError(f"{path} cannot be run: {type(mistake).__name__}: {mistake}") from mistake
    function = getattr(module, name, None)
    if not callable(function):
        own = [each for each, value in vars(module).items() if inspect.isfunction(value) or inspect.isclass(value)]
        near = difflib.get_close_matches(name, own, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(own) or 'none'}."
        raise ValueError(f"{path} has no function {name!r}{hint}")
    return function


class _AsItStands(importlib.machinery.SourceFileLoader):
    """Runs the text of a file as it stands, never a compiled copy of an older one."""

    def path_stats(self, path: Any) -> Any:
        raise OSError


def file_digest(path: str) -> str:
    """Returns the SHA-256 of a file, or "" if it is not there."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else ""


def _arguments(function: Callable[..., Any], name: str) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """Returns the names of the columns, and the bounds of each constant."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ValueError(f"{name} does not say its arguments; write a plain function, as in: {EXAMPLE}") from None
    columns = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    constants = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    if len(columns) + len(constants) < len(parameters) or not columns or not constants:
        raise ValueError(
            f"law {name}{inspect.signature(function)}: columns come first, constants after a *, and each has a name, "
            f"as in: {EXAMPLE}"
        )
    given = dict(getattr(function, "bounds", {}))
    unknown = [each for each in given if each not in [constant.name for constant in constants]]
    if unknown:
        raise ValueError(f"law {name}: bounds are given for {unknown[0]!r}, which is none of its constants.")
    return columns, {each.name: _bounds(name, each, given.get(each.name, each.annotation)) for each in constants}


def _bounds(law: str, constant: inspect.Parameter, given: Any) -> tuple[float, float]:
    if isinstance(given, str):  # under `from __future__ import annotations`
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError):
            given = constant.empty
    if given in (constant.empty, float):
        return POSITIVE
    try:
        low, high = map(float, given)
        if low < high:
            return low, high
    except (TypeError, ValueError):
        pass
    raise ValueError(f"law {law}: bounds of {constant.name} are {given!r}, expected (low, high).")


def _variable(name: str, columns: list[str]) -> Variable:
    known = KNOWN.get(name, Variable(name, name, "as given", may_be_zero=True))
    return known if known.same_scale_as in columns else replace(known, same_scale_as="")


def _parameter(name: str, bounds: tuple[float, float]) -> Parameter:
    low, high = bounds
    if low < 0:
        start = bounds if np.isfinite(bounds).all() else (max(low, -1.0), min(high, 1.0))
        return Parameter(name, name, "as given", "identity", bounds, start)
    # Within three decades of an upper bound, if there is no lower one.
    return Parameter(name, name, "as given", "log", bounds, (low or high * 1e-3, high) if np.isfinite(high) else None)


def _loss(function: Callable[..., Any], columns: list[str], constants: Values, x: Values) -> np.ndarray:
    return function(*(x[name] for name in columns), **constants)


def _shaped(law: Law, shape: Shape) -> Law:
    """Returns the law with what its formula shows of its constants."""
    assert law.origin
    parameters = []
    for each in law.parameters:
        is_floor = each.name == shape.floor and each.transform == "log"
        transform = "identity" if is_floor else each.transform
        parameters.append(replace(each, transform=transform, scale=shape.scale.get(each.name, ())))
    return replace(
        law,
        parameters=tuple(parameters),
        linear=tuple((name,) for name in shape.linear),
        loss=law.loss if shape.takes_complex else partial(by_differences, law.loss),
        frontier=shape.frontier,
        floor=shape.floor,
        origin=replace(law.origin, shape=shape.to_json()),
        settle=None,
    )


def _origin(function: Callable[..., Any], name: str, path: str) -> Origin:
    """Returns where a function stands; what is typed in, or lies in the program that runs, counts as having no file."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
        found = inspect.getsourcefile(function) or ""
    except (OSError, TypeError):
        source = found = ""
    path = path or (found if function.__module__ != "__main__" and Path(found).is_file() else "")
    path = str(Path(path).resolve()) if path else ""  # a report reads the fit from another working directory
    digest = file_digest(path) or (hashlib.sha256(source.encode()).hexdigest() if source else "")
    return Origin(path, name, digest, source)


def _formula(source: str) -> str:
    """Returns "L = ..." of a function that does nothing but return an expression, else ""."""
    try:
        function = ast.parse(source).body[0]
    except (SyntaxError, IndexError):
        return ""
    body = [each for each in getattr(function, "body", []) if not isinstance(each, ast.Expr)]
    if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
        return ""
    return "L = " + " ".join((ast.get_source_segment(source, body[0].value) or "").split())


def kept_law(kept: Mapping[str, Any], given: Law | None) -> Law:
    """Returns the user's own law of a fit's JSON, which holds its origin: as given, or from the file it names there.

    Raises:
      ValueError: it is not there, or is another than when it was fitted.
    """
    place = f"{kept['path'] or 'FILE.py'}:{kept['name']}"
    again = f"give it again: law=... in Python, --law {place} for the command"
    if given is None and not file_digest(kept["path"]):
        raise ValueError(f"the fit's own law {place} is not there; {again}.")
    found = given.origin.digest if given and given.origin else file_digest(kept["path"])
    if not kept["digest"] or found != kept["digest"]:
        raise ValueError(
            f"the law {place} is not the one that was fitted: its text has changed, or was not known; fit again with "
            "it, or give the old one back."
        )
    law = given or load_law(f"{kept['path']}:{kept['name']}")
    return _shaped(law, read_shape(kept["shape"]))
