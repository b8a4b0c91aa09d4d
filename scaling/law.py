"""What a law is: a formula with named constants, their ranges, and where it comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Values = Mapping[str, np.ndarray]
"""Arrays by name: constants [..., 1] or columns [runs]; a law broadcasts them to [..., runs]."""


Scale = tuple[tuple[str, str | float], ...]
"""How a constant changes with the unit of variables: (("num_params_total", "alpha"),) means value ~ unit ** alpha,
"-alpha" unit ** -alpha, a number that power."""


def power(column: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Returns column ** exponent for a positive column [runs] and an exponent [..., 1], real or complex."""
    return np.exp(exponent * np.log(column))


def softplus(t: np.ndarray) -> np.ndarray:
    """Returns ln(1 + exp(t)), real or complex, without overflow."""
    return np.where(t.real > 0, t, 0) + np.log1p(np.exp(np.where(t.real > 0, -t, t)))


@dataclass(frozen=True)
class Variable:
    """A column that a law needs."""

    name: str
    meaning: str
    unit: str
    same_scale_as: str = ""
    """Another variable that must be divided by the same number when columns are centred."""
    may_be_zero: bool = False
    """Whether zero is a sound value, as for a sparsity."""
    neutral: float | None = None
    """The value that changes nothing (one expert, no sparsity, infinitely many bits); None for counts."""
    setting: bool = False
    """Whether it belongs to the set-up: it may be the same in every run, and no exponent of it is told."""


NUM_PARAMS = Variable("num_params_total", "trainable parameters, embeddings included", "parameters")
NUM_TOKENS = Variable("num_tokens", "training tokens processed", "tokens")
NUM_UNIQUE = Variable("num_unique_tokens", "distinct training tokens", "tokens", same_scale_as="num_tokens")


@dataclass(frozen=True)
class Parameter:
    """A constant of a law that is fitted."""

    name: str
    meaning: str
    unit: str = "1"
    transform: str = "log"
    """"log" for a positive constant, fitted as its logarithm; "identity" otherwise."""
    bounds: tuple[float, float] = (0.0, np.inf)
    """Smallest and largest value the fit may return."""
    start: tuple[float, float] | None = None
    """Range of starting values when the law is not linear in it (variables divided by their geometric means)."""
    scale: Scale = ()


def signed(
    name: str, meaning: str, start: tuple[float, float], bounds: tuple[float, float] = (-5.0, 5.0), scale: Scale = ()
) -> Parameter:
    """Returns a constant of either sign and no unit."""
    return Parameter(name, meaning, "1", "identity", bounds, start, scale)


@dataclass(frozen=True)
class Reference:
    """Published constants of a law."""

    constants: Mapping[str, float]
    source: str
    mark: str
    """"V" checked against a stored public source, "M" from memory: never asserted as fact."""


@dataclass(frozen=True)
class Origin:
    """Where the formula of a user's own law stands."""

    path: str
    """Its file; "" for a function that was typed in."""
    name: str
    digest: str
    """SHA-256 of the file, or of the function typed in; "" if its text is not known."""
    source: str
    """The function, for people; it is never run from here."""
    shape: Mapping[str, Any] = field(default_factory=dict)
    """What the formula showed of its constants on the runs fitted, as JSON values (own_law/shape.py)."""


@dataclass(frozen=True)
class Law:
    """One entry of the registry."""

    id: str
    title: str
    formula: str
    citation: str
    variables: tuple[Variable, ...]
    parameters: tuple[Parameter, ...]
    linear: tuple[tuple[str, ...], ...]
    """Groups of constants the loss is jointly linear in: doubling a group doubles its part of the loss. The first
    of a group is solved for; the start ranges of the others are ratios to the first."""
    loss: Callable[[Values, Values], np.ndarray]
    """(constants [..., 1], columns [runs]) -> loss [..., runs], written in numpy so that complex input works."""
    gradient: Callable[[Values, Values], tuple[np.ndarray, Values]] | None = None
    """As `loss` for real input, returning also the derivative by each constant (by the logarithm of those fitted as
    one), of any shape that broadcasts to the loss. Without it a complex step is used."""
    validity: str = ""
    references: tuple[Reference, ...] = ()
    sweep: str = ""
    """The runs that identify the law."""
    pitfalls: str = ""
    frontier: tuple[str, str] | None = None
    """Names (x, y) of the exponents for which the compute-optimal parameters grow as compute ** (y / (x + y))."""
    floor: str = "E"
    """The constant that no loss can be below, if the law has it; "" where E is no such floor."""
    quantity: str = "loss"
    """What the column mapped to `loss` holds; laws of other quantities have no reducible part."""
    limits: tuple[str, ...] = field(default=())
    """Special cases, each asserted by a test."""
    origin: Origin | None = None
    """Of a user's own law, where its formula stands."""
    settle: Callable[[Values], "Law"] | None = None
    """Of a user's own law: (columns [runs]) -> the law with what its formula shows of its constants; ValueError if it
    cannot be used there."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the constants, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def variable_names(self) -> tuple[str, ...]:
        """Columns that the law needs besides the loss."""
        return tuple(variable.name for variable in self.variables)

    def __repr__(self) -> str:
        lines = [f"{self.id}: {self.title}", f"  {self.formula}", f"  source     {self.citation}"]
        lines += [f"  column     {each.name}: {each.meaning} [{each.unit}]" for each in self.variables]
        lines += [f"  constant   {each.name}: {each.meaning} [{each.unit}]" for each in self.parameters]
        about = {"validity": self.validity, "sweep": self.sweep, "pitfalls": self.pitfalls}
        lines += [f"  {name:<10} {text}" for name, text in about.items() if text]
        lines += [f"  limit      {each}" for each in self.limits]
        for each in self.references:
            constants = ", ".join(f"{name} {value:g}" for name, value in each.constants.items())
            lines.append(f"  published  {constants} ({each.source})")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Returns all about the law as plain JSON values."""
        linear = {name for group in self.linear for name in group}
        return {
            "id": self.id,
            "title": self.title,
            "formula": self.formula,
            "citation": self.citation,
            "variables": {each.name: {"meaning": each.meaning, "unit": each.unit} for each in self.variables},
            "parameters": {
                each.name: {"meaning": each.meaning, "unit": each.unit, "linear": each.name in linear}
                for each in self.parameters
            },
            "validity": self.validity,
            "limits": list(self.limits),
            "references": [
                {"constants": dict(each.constants), "source": each.source, "mark": each.mark}
                for each in self.references
            ],
            "sweep": self.sweep,
            "pitfalls": self.pitfalls,
        }

    def __getitem__(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)

    def at(self, constants: Mapping[str, float], columns: Values) -> np.ndarray:
        """Returns the loss [runs] for constants given as plain numbers, in the units of the columns.

        Raises:
          ValueError: if a constant or a column is missing.
        """
        lost = [name for name in self.names if name not in constants]
        lost += [name for name in self.variable_names if name not in columns]
        if lost:
            raise ValueError(f"law {self.id} needs {', '.join(lost)}: {self.formula}.")
        values = {name: np.atleast_1d(np.float64(constants[name])) for name in self.names}
        arrays = {name: np.asarray(columns[name], np.float64) for name in self.variable_names}
        return np.asarray(self.loss(values, arrays), np.float64)
