"""A law as the fitter sees it: centred columns, working coordinates, log residuals and their derivatives."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from kleiber.scaling.fitting.measure import LOG, Measure
from kleiber.scaling.law import Law, Scale

STEP = 1e-30
"""Complex step: derivatives are exact to rounding, however small the step."""
MANY = 5_000
"""Runs from which on those of one design, seeds of each other, are looked for: a law is computed once for each."""


@dataclass(frozen=True)
class ScaledLaw:
    """A law on given columns, divided by their geometric means, with some constants held fixed.

    A working point z [..., P] holds the free constants, positive ones as logarithms.
    """

    law: Law
    columns: Mapping[str, np.ndarray]
    """float64 [runs], as measured."""
    scales: Mapping[str, float]
    """What each column is divided by, and under "loss" the unit of raw losses that the fitter works in."""
    fixed: Mapping[str, float | str]
    """Constants held fixed, in the units of the columns, or tied to the one named."""
    measure: Measure = LOG
    """How losses are compared."""

    @cached_property
    def free(self) -> tuple[str, ...]:
        """Names of the fitted constants."""
        return tuple(name for name in self.law.names if name not in self.fixed)

    @cached_property
    def is_log(self) -> np.ndarray:
        """bool [P], which working coordinates are logarithms."""
        return np.array([self.law[name].transform == "log" for name in self.free], dtype=bool)

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest working point, float64 [P] each."""
        low, high = np.array([self.law[name].bounds for name in self.free], dtype=np.float64).reshape(-1, 2).T
        if self.measure.is_signed:
            low = np.where([name == "E" for name in self.free], -np.inf, low)
        with np.errstate(divide="ignore"):
            return (
                np.where(self.is_log, np.log(np.maximum(low, 1e-300)), low),
                np.where(self.is_log, np.log(high), high),
            )

    @cached_property
    def turning(self) -> dict[str, Scale]:
        """How each constant changes with the units of the columns, and of the loss."""
        linear = {name for group in self.law.linear for name in group if "loss" in self.scales}
        return {each.name: each.scale + (("loss", 1.0),) * (each.name in linear) for each in self.law.parameters}

    @property
    def unit(self) -> float:
        """Unit of the losses that the law gives for the constants of a working point."""
        return self.scales.get("loss", 1.0)

    def on(self, rows: np.ndarray) -> "ScaledLaw":
        """Returns the law on some of the runs, columns divided by the same scales."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, measure=self.measure.on(rows))

    def centred(self, columns: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Returns the columns, of the runs if none are given, divided by their scales."""
        if columns is None:
            return dict(self._centred)
        return {name: np.asarray(columns[name], np.float64) / self.scales[name] for name in self.law.variable_names}

    @cached_property
    def _centred(self) -> dict[str, np.ndarray]:
        return self.centred(self.columns)

    @cached_property
    def _designs(self) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """The centred columns of each design, and which one every run [runs] has; None where hardly any are alike, and
        for a user's own law, which may look at the table as a whole."""
        x, which = self._centred, np.zeros(1, int)
        count = len(next(iter(x.values())))
        if count < MANY or self.law.origin or not self.free:
            return x, None
        for values in x.values():
            _, level = np.unique(values, return_inverse=True)
            _, which = np.unique(which * (level.max() + 1) + level, return_inverse=True)
        _, first = np.unique(which, return_index=True)
        if 2 * len(first) > count:
            return x, None
        return {name: values[first] for name, values in x.items()}, which

    def constants(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Returns every constant, in centred units, as [..., 1] for a working point z [..., P], real or complex."""
        plain = z.copy()
        plain[..., self.is_log] = np.exp(z[..., self.is_log])
        values = {name: plain[..., index : index + 1] for index, name in enumerate(self.free)}
        for name, value in self.fixed.items():
            values[name] = values[value] if isinstance(value, str) else np.full((1,) * z.ndim, value)
        for name, other in self.fixed.items():
            for variable, exponent in self.turning[other] if isinstance(other, str) else ():
                values[name] = values[name] * self._unit(variable, exponent, values, 1.0)
            for variable, exponent in self.turning[name]:
                values[name] = values[name] * self._unit(variable, exponent, values, -1.0)
        return values

    def reported(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Returns every constant in the units of the columns, [...] for z [..., P]; infinite where it is too large."""
        values = self.constants(z)
        out = {}
        for name in self.law.names:
            value = values[name]
            with np.errstate(over="ignore"):
                for variable, exponent in self.turning[name]:
                    value = value * self._unit(variable, exponent, values, 1.0)
            out[name] = np.broadcast_to(value, (*z.shape[:-1], 1))[..., 0]
        return out

    def _unit(self, variable: str, exponent: str | float, values: Mapping[str, np.ndarray], sign: float) -> np.ndarray:
        return np.exp(sign * _exponent(exponent, values) * np.log(self.scales[variable]))

    def working(self, constants: Mapping[str, float]) -> np.ndarray:
        """Returns the working point [P] of constants given in the units of the columns."""
        z = []
        for name in self.free:
            value = float(constants[name])
            for variable, exponent in self.turning[name]:
                value *= float(np.exp(-_exponent(exponent, constants) * np.log(self.scales[variable])))
            z.append(np.log(value) if self.law[name].transform == "log" else value)
        return np.array(z, dtype=np.float64)

    def log_loss(self, z: np.ndarray, columns: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Returns the logarithm of the predicted loss [..., runs] at z [..., P], or what else `measure` compares; NaN
        where there is none."""
        x, which = (self.centred(columns), None) if columns is not None else self._designs
        value = self.measure.of(self.unit * self.law.loss(self.constants(z), x))
        return value if which is None or value.shape[-1] == 1 else value[..., which]

    def log_loss_and_jacobian(
        self, z: np.ndarray, columns: Mapping[str, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns `log_loss` [b, runs] and its derivative by z [b, runs, P], for z [b, P]."""
        x, which = (self.centred(columns), None) if columns is not None else self._designs
        value, jacobian = self._derivatives(z, x)
        if which is None:
            return value, np.swapaxes(jacobian, 1, 2)
        return np.take(value, which, axis=1), np.swapaxes(np.take(jacobian, which, axis=2), 1, 2)

    def _derivatives(self, z: np.ndarray, x: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns `log_loss` [b, designs] and its derivative by z [b, P, designs]: constants before runs in memory, as
        every derivative is written, and later multiplied, in one stretch."""
        is_tied = any(isinstance(value, str) or self.turning[name] for name, value in self.fixed.items())
        if self.law.gradient is None or is_tied:
            return self._complex_step(z, x)
        values = self.constants(z)
        with np.errstate(all="ignore"):
            loss, derivative = self.law.gradient(values, x)
            loss = self.unit * loss
            inverse = self.unit / self.measure.width(loss)
            jacobian = np.empty((loss.shape[0], len(self.free), loss.shape[1]))
            for index, name in enumerate(self.free):
                np.multiply(derivative[name], inverse, out=jacobian[:, index])
            return self.measure.of(loss), jacobian

    def _complex_step(self, z: np.ndarray, x: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        num_free = z.shape[-1]
        shifted = z[None] + 1j * STEP * np.eye(num_free)[:, None, :]
        loss = self.unit * self.law.loss(self.constants(shifted), x)
        loss = np.broadcast_to(loss, (num_free, z.shape[0], len(next(iter(x.values())))))
        value = self.measure.of(loss[0].real) if num_free else np.empty(0)
        width = np.where(np.isnan(value), np.nan, self.measure.width(loss[0].real)) if num_free else np.empty(0)
        return value, np.moveaxis(loss.imag / STEP / width, 0, 1)


def _exponent(exponent: str | float, values: Mapping[str, Any]) -> Any:
    """Returns the value of an exponent given as a number, a constant's name, or "-" and its name."""
    if not isinstance(exponent, str):
        return exponent
    return -values[exponent[1:]] if exponent.startswith("-") else values[exponent]


def make_scaled_law(
    law: Law,
    columns: Mapping[str, np.ndarray],
    fixed: Mapping[str, float | str] | None = None,
    measure: Measure = LOG,
    unit: float = 1.0,
) -> ScaledLaw:
    """Returns a law on measured columns, each divided by its geometric mean if the law allows it, and working with
    losses in a unit if doubling its linear constants doubles them.

    Raises:
      ValueError: if a fixed constant is not one of the law's, or a law of the user's own cannot be used here.
    """
    fixed = dict(fixed or {})
    tied = {name: other for name, other in fixed.items() if isinstance(other, str)}
    unknown = [name for name in (*fixed, *tied.values()) if name not in law.names]
    chained = [f"{name}={other}" for name, other in tied.items() if other in fixed]
    if chained:
        raise ValueError(f"{chained[0]} ties a constant to one that is itself held; tie it to a free one.")
    if unknown:
        raise ValueError(f"law {law.id} has no constant {unknown[0]!r} to fix; it has {', '.join(law.names)}.")
    chosen = {name: np.asarray(columns[name], np.float64) for name in law.variable_names}
    law = law.settle(chosen) if law.settle else law
    centring = {variable for parameter in law.parameters for variable, _ in parameter.scale}
    scales = {
        name: float(np.exp(np.mean(np.log(values)))) if name in centring else 1.0 for name, values in chosen.items()
    }
    scales |= {each.name: scales[each.same_scale_as] for each in law.variables if each.same_scale_as}
    plain = ScaledLaw(law, chosen, scales, fixed, measure)
    return replace(plain, scales={**scales, "loss": unit}) if unit != 1 and _doubles(plain) else plain


def _doubles(scaled: ScaledLaw) -> bool:
    """Returns whether doubling the linear constants doubles the loss."""
    linear = {name for group in scaled.law.linear for name in group}
    once = {name: np.full((1, 1), 0.3) for name in scaled.law.names}
    twice = {name: value * (1 + (name in linear)) for name, value in once.items()}
    with np.errstate(all="ignore"):
        here, there = (scaled.law.loss(values, scaled.centred()) for values in (once, twice))
    return bool(np.allclose(there, 2 * here, rtol=1e-9, atol=0))


def is_seen(scaled: ScaledLaw, variable: str) -> bool:
    """Returns whether the loss depends on a variable at all, with the constants that are fixed."""
    z = np.full((1, len(scaled.free)), 0.3)
    moved = {**scaled.columns, variable: scaled.columns[variable] * 1.5 + 0.1}
    with np.errstate(all="ignore"):
        here, there = (scaled.law.loss(scaled.constants(z), scaled.centred(each)) for each in (scaled.columns, moved))
    return not np.array_equal(np.broadcast_to(here, np.shape(there)), there)


@dataclass(frozen=True)
class Solution:
    """A fitted working point, and the runs there."""

    scaled: ScaledLaw
    z: np.ndarray
    """float64 [P]."""
    residual: np.ndarray
    """float64 [runs], measured minus predicted log loss, or as `measure` has it; weighed."""
    jacobian: np.ndarray
    """float64 [runs, P], of the predicted by z; weighed."""

    @property
    def free(self) -> np.ndarray:
        """bool [P], coordinates not at a bound."""
        low, high = self.scaled.bounds
        return (self.z > low) & (self.z < high)


def solution_at(scaled: ScaledLaw, z: np.ndarray, log_loss: np.ndarray) -> Solution:
    """Returns the solution at a working point [P] for measured log losses [runs]."""
    predicted, jacobian = (each[0] for each in scaled.log_loss_and_jacobian(z[None]))
    difference, jacobian = scaled.measure.weighed(predicted - log_loss, jacobian)
    return Solution(scaled, z, -difference, jacobian)
