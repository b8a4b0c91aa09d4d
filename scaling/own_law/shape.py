"""What a user's formula shows of its constants on given runs: which it is linear in, and how they turn with units.

The fitter solves for linear constants exactly and divides columns by their means; shipped laws declare what both need.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kleiber.scaling.law import Law, Scale, Values

STEP = 1e-30
"""Complex step: derivatives exact to rounding."""
WIDTH = 1e-6
"""Of central differences, relative, where a formula takes no complex numbers."""
NUM_TRIED, NUM_DRAWS, NUM_RUNS = 64, 12, 9
"""Draws of constants tried, and those and the runs that the formula is looked at."""
USUAL = (0.05, 1.0)
"""Constants are drawn from here: every term of a sum of powers then counts in some draw."""
FACTOR = 3.7
"""Columns are multiplied by this to see how constants turn with their unit; any number not round does."""
MOST_LINEAR = 5
"""The fitter tries every subset of the linear constants."""
Loss = Callable[[Values, Values], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """What a formula shows."""

    linear: tuple[str, ...] = ()
    """Constants it is jointly linear in."""
    scale: Mapping[str, Scale] = field(default_factory=dict)
    """As `Parameter.scale`, of the constants that turn with the unit of a column."""
    frontier: tuple[str, str] | None = None
    """As `Law.frontier`, of a power of parameters plus a power of tokens plus what depends on neither."""
    floor: str = ""
    """The constant that is added as it is."""
    takes_complex: bool = True
    """Whether it takes complex numbers, and so gives exact derivatives."""

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; `read_shape` gives it back."""
        return asdict(self)


def read_shape(data: Mapping[str, Any]) -> Shape:
    """Returns the shape that `to_json` wrote."""
    scale = {name: tuple((column, power) for column, power in pairs) for name, pairs in data["scale"].items()}
    frontier = (data["frontier"][0], data["frontier"][1]) if data["frontier"] else None
    return Shape(tuple(data["linear"]), scale, frontier, data["floor"], data["takes_complex"])


def by_differences(loss: Loss, constants: Values, x: Values) -> np.ndarray:
    """Returns what a complex step of a real formula would give, by central differences; plain for real input."""

    def moved(share: float) -> np.ndarray:
        return loss(*({name: v.real + share * v.imag / STEP for name, v in part.items()} for part in (constants, x)))

    if not any(np.iscomplexobj(value) for part in (constants, x) for value in part.values()):
        return loss(constants, x)
    return moved(0.0) + 1j * STEP * (moved(WIDTH) - moved(-WIDTH)) / (2 * WIDTH)


def find_shape(law: Law, columns: Values) -> Shape:
    """Returns what the formula of a user's own law shows on columns [runs].

    Raises:
      ValueError: it cannot be computed there, gives another shape than [sets, runs] or no finite loss, or has a
        constant that does nothing.
    """
    look = _look(law, columns)
    idle = [name for name, slope in look.slopes(look.draws).items() if not np.any(np.abs(slope) > look.noise)]
    if idle:
        raise ValueError(f"law {law.id}: constant {idle[0]!r} does nothing, the loss is the same whatever it is.")
    linear: tuple[str, ...] = ()
    for name in law.names:
        if len(linear) < MOST_LINEAR and look.is_linear((*linear, name)):
            linear = (*linear, name)
    slopes = look.slopes(look.draws)
    floor = next((name for name in linear if np.allclose(slopes[name], 1.0, rtol=look.tolerance)), "")
    scale: dict[str, Scale] = {}
    for variable in law.variables:
        if not variable.same_scale_as:
            followers = [each.name for each in law.variables if each.same_scale_as == variable.name]
            for name, power in look.turning((variable.name, *followers), linear).items():
                scale[name] = (*scale.get(name, ()), (variable.name, power))
    return Shape(linear, scale, look.frontier(linear, scale), floor, look.takes_complex)


@dataclass(frozen=True)
class _Look:
    """A formula at some draws of its constants [draws, 1] and some runs."""

    law: Law
    loss: Loss
    draws: Values
    x: Values
    takes_complex: bool

    @property
    def tolerance(self) -> float:
        """Relative, of derivatives."""
        return 1e-8 if self.takes_complex else 1e-4

    @property
    def noise(self) -> np.ndarray:
        """float64 [draws, runs], derivatives below which nothing is seen."""
        return np.abs(self.loss(self.draws, self.x)) * (1e-18 if self.takes_complex else 1e-9)

    def slopes(self, draws: Values, x: Values | None = None) -> dict[str, np.ndarray]:
        """Returns the derivative [draws, runs] of the loss by each constant."""
        x = self.x if x is None else x
        return {name: _slope(self.loss, draws, x, name) for name in self.law.names}

    def is_linear(self, names: Sequence[str]) -> bool:
        """Returns whether the derivative by none of the constants changes when they all do."""
        factors = np.random.default_rng(1).uniform(0.5, 2.0, (len(names), NUM_DRAWS))
        count = len(next(iter(self.draws.values())))
        moved = {name: self.draws[name] * factor[:count, None] for name, factor in zip(names, factors, strict=True)}
        before, after = self.slopes(self.draws), self.slopes({**self.draws, **moved})
        return all(
            np.all(np.abs(after[name] - before[name]) <= self.tolerance * np.abs(before[name]) + 10 * self.noise)
            for name in names
        )

    def turning(self, group: Sequence[str], linear: Sequence[str]) -> dict[str, str | float]:
        """Returns how constants turn with the unit that a group of columns shares; nothing where it cannot be told.

        Of a linear constant the power is that of its part of the loss; of the others one may turn with the unit itself.
        """
        if any(np.any(self.x[name] <= 0) for name in group):
            return {}
        larger = {**self.x, **{name: self.x[name] * FACTOR for name in group}}
        before, after = self.slopes(self.draws), self.slopes(self.draws, larger)
        rule: dict[str, str | float] = {}
        for name in linear:
            with np.errstate(all="ignore"):
                power = np.log(after[name] / before[name]) / np.log(FACTOR)
            power[np.minimum(np.abs(after[name]), np.abs(before[name])) <= 1e4 * self.noise] = np.nan
            found = self._power(-power, [each for each in self.law.names if each not in linear])
            if found is None:
                return {}
            rule |= {name: found} if found != 0.0 else {}
        rest = [name for name in self.law.names if name not in linear]
        for extra in ({}, *({name: 1.0} for name in rest), *({name: -1.0} for name in rest)):
            tried = {**rule, **extra}
            if all(self.law[name].bounds == (0.0, np.inf) for name in tried) and self._is_unmoved(group, tried):
                return tried
        return {}

    def _power(self, power: np.ndarray, names: Sequence[str]) -> str | float | None:
        """Returns the constant, or the number, that a power [draws, runs] is; None if it is neither."""
        kept = np.isfinite(power).all(axis=1)  # a part may be too small to be seen in some draw

        def equals(value: np.ndarray) -> bool:
            return bool(np.all(np.abs(power - value)[kept] <= 10 * self.tolerance))

        if not kept.any():
            return None

        for name in names:
            for sign, text in ((1.0, name), (-1.0, f"-{name}")):
                if equals(sign * self.draws[name]):
                    return text
        number = float(np.round(power[kept][0, 0], 6))
        return number if equals(np.full(power.shape, number)) else None

    def _is_unmoved(self, group: Sequence[str], rule: Mapping[str, str | float]) -> bool:
        """Returns whether the loss stays when the columns are divided by a number and the constants turn with it."""
        moved = {}
        for name, power in rule.items():
            exponent = power if isinstance(power, float) else self.draws[power.lstrip("-")]
            sign = -1.0 if isinstance(power, str) and power.startswith("-") else 1.0
            moved[name] = self.draws[name] * FACTOR ** (-sign * exponent)
        smaller = {**self.x, **{name: self.x[name] / FACTOR for name in group}}
        before, after = self.loss(self.draws, self.x), self.loss({**self.draws, **moved}, smaller)
        return np.allclose(after, before, rtol=1e-9, atol=0)

    def frontier(self, linear: Sequence[str], scale: Mapping[str, Scale]) -> tuple[str, str] | None:
        """Returns the exponents of parameters and of tokens of a sum of their powers, if it is one."""
        turning = {scale[name]: name for name in linear if name in scale}
        pairs = dict(pair for scales in turning for pair in scales)
        first, second = pairs.get("num_params_total"), pairs.get("num_tokens")
        if len(turning) != 2 or len(scale) != 2 or any(len(scales) != 1 for scales in turning):
            return None
        if not (isinstance(first, str) and isinstance(second, str)) or "-" in first + second:
            return None
        slopes = self.slopes(self.draws)
        rest = self.loss(self.draws, self.x) - sum(self.draws[name] * slopes[name] for name in turning.values())
        return (first, second) if np.allclose(rest, rest[:, :1], rtol=1e-8, atol=0) else None


def _slope(loss: Loss, draws: Values, x: Values, name: str) -> np.ndarray:
    return loss({**draws, name: draws[name] + 1j * STEP}, x).imag / STEP


def _look(law: Law, columns: Values) -> _Look:
    """Returns the formula where it can be looked at, checked on every run."""
    num_runs = len(next(iter(columns.values())))
    num_tried = NUM_TRIED + (num_runs == NUM_TRIED)  # so that [sets] and [runs] are never mistaken for each other
    draws = _draw(law, num_tried)
    value = _computed(law, draws, columns)
    sound = np.isfinite(value)
    if not sound.all(axis=1).any():
        row = int(sound.sum(axis=0).argmin())
        at = ", ".join(f"{name} {values[row]:g}" for name, values in columns.items())
        best = int(sound.sum(axis=1).argmax())
        given = ", ".join(f"{name} {each[best, 0]:.3g}" for name, each in draws.items())
        raise ValueError(
            f"law {law.id} gives {value[best, row]:g} at row {row + 1} of those used ({at}), as with {given}."
        )
    kept = np.flatnonzero(sound.all(axis=1))[:NUM_DRAWS]
    rows = np.unique(np.linspace(0, num_runs - 1, NUM_RUNS).astype(int))
    draws = {name: each[kept] for name, each in draws.items()}
    x = {name: values[rows] for name, values in columns.items()}
    alone = [_computed(law, draws, {name: values[[row]] for name, values in columns.items()}) for row in rows[[0, -1]]]
    if not np.allclose(np.hstack(alone), value[np.ix_(kept, rows[[0, -1]])], rtol=1e-9, atol=0):
        raise ValueError(
            f"law {law.id}: the loss of a run changes with the other runs given, as by a mean or maximum over them; "
            "compute each run from its own columns."
        )

    def loss(constants: Values, at: Values) -> np.ndarray:
        return np.broadcast_to(law.loss(constants, at), (len(kept), len(rows)))

    def differences(constants: Values, at: Values) -> np.ndarray:
        return by_differences(loss, constants, at)

    exact = True
    try:
        with np.errstate(all="ignore"):
            for name in law.names:
                ours, other = _slope(loss, draws, x, name), _slope(differences, draws, x, name)
                near = np.abs(ours - other) <= 1e-4 * np.abs(other) + 1e-7 * np.abs(loss(draws, x))
                exact = exact and bool(near.all())
    except (TypeError, ValueError, AttributeError):  # numpy's functions of real numbers alone refuse complex ones
        exact = False
    return _Look(law, loss if exact else differences, draws, x, exact)


def _draw(law: Law, count: int) -> dict[str, np.ndarray]:
    """Returns draws [count, 1] of every constant, always the same."""
    rng, draws = np.random.default_rng(0), {}
    for each in law.parameters:
        low, high = each.start or USUAL
        if each.transform == "log":
            draws[each.name] = np.exp(rng.uniform(np.log(low), np.log(high), (count, 1)))
        else:
            draws[each.name] = rng.uniform(low, high, (count, 1))
    return draws


def _computed(law: Law, draws: Values, columns: Values) -> np.ndarray:
    """Returns the loss [draws, runs], real."""
    count, num_runs = len(next(iter(draws.values()))), len(next(iter(columns.values())))
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(law.loss(draws, columns))
        if value.dtype.kind not in "fiu":
            raise TypeError(f"it gives {value.dtype}, not numbers")
    except Exception as mistake:
        raise ValueError(
            f"law {law.id} cannot be computed ({type(mistake).__name__}: {mistake}): columns come as arrays [runs] and "
            "constants as [sets, 1]; use numpy's functions on them, and np.where for if."
        ) from mistake
    if value.shape != (count, num_runs):
        raise ValueError(
            f"law {law.id} gives an array {list(value.shape)} for {count} sets of constants [{count}, 1] and columns "
            f"[{num_runs}], expected [{count}, {num_runs}]: one loss for each set and run."
        )
    return value.astype(np.float64)
