"""The settings at which a fitted law has its least loss for a given run, as the learning rate of a basin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.estimates import stepped, stepped_interval
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import STEP
from kleiber.scaling.forecasting.derived import with_derived

BEYOND = 4.0
"""A best setting is looked for so many times beyond the smallest and largest fitted, and not further."""
GRID = 61
"""Values of each setting tried; where a setting has no best inside, none of them is followed."""
WIDTH = 1e-5
"""Of the working coordinates and of log settings, for derivatives."""


@dataclass(frozen=True)
class BestSetting:
    """The best level of one setting, others asked for being at their best too."""

    name: str
    value: float
    interval: tuple[float, float]
    level: float

    def report(self) -> str:
        """Returns it as a line of text."""
        low, high = self.interval
        return f"best {self.name} {self.value:.4g}, {self.level:.0%} interval [{low:.4g}, {high:.4g}]"

    __repr__ = report


def best_settings(
    fit: FitResult, names: Sequence[str], run: Mapping[str, float], level: float = 0.9
) -> tuple[BestSetting, ...]:
    """Returns the levels of some positive variables of a law at which the loss of a run is least, with intervals from
    the fit's uncertainty (of the optimum that the law has, not of a single noisy sweep's lowest run).

    Args:
      fit: of a law whose loss has a minimum in these variables, as basin_scaled.
      names: one or several of the law's variables, found together.
      run: the law's other variables by name.
      level: probability of the intervals.

    Raises:
      ValueError: a variable that the law lacks or that is missing, or no minimum within 4 times the fitted levels.
    """
    known, given = fit.definition.variable_names, with_derived(run)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"law {fit.law} has no {unknown[0]!r} to be best at; it has {', '.join(known)}.")
    if lost := [name for name in known if name not in names and name not in given]:
        raise ValueError(f"law {fit.law} also needs a value for {', '.join(lost)}.")
    if zero := [name for name in names if fit.points[name].min() <= 0]:
        raise ValueError(f"some runs have {zero[0]} 0; a best level is looked for among positive ones.")
    search = _Search(fit, tuple(names), {name: float(given[name]) for name in known if name not in names})
    logs = search.refined(stepped(fit.z, WIDTH), search.coarse())
    found = [stepped_interval(each, WIDTH, fit.uncertainty, level, is_log=True) for each in logs.T]
    return tuple(
        BestSetting(name, float(value), ends, level)
        for name, value, ends in zip(names, np.exp(logs[0]), found, strict=True)
    )


@dataclass(frozen=True)
class _Search:
    fit: FitResult
    names: tuple[str, ...]
    others: Mapping[str, float]

    def loss(self, z: np.ndarray, logs: np.ndarray) -> np.ndarray:
        """Returns the loss [b], real or complex, for working points [b, P] (or [1, P]) and log settings [b, K]."""
        scaled = self.fit.scaled
        columns = {name: np.full(1, value) for name, value in self.others.items()}
        columns |= {name: np.exp(logs[:, [index]]) for index, name in enumerate(self.names)}
        x = {name: columns[name] / scaled.scales[name] for name in self.fit.definition.variable_names}
        return np.asarray(scaled.law.loss(scaled.constants(z), x))[:, 0]

    def coarse(self) -> np.ndarray:
        """Returns the best log settings [K] of a grid, none at its edge."""
        points = [self.fit.points[name] for name in self.names]
        axes = [np.linspace(np.log(x.min() / BEYOND), np.log(x.max() * BEYOND), GRID) for x in points]
        grids = np.stack([each.ravel() for each in np.meshgrid(*axes, indexing="ij")], axis=1)
        best = grids[int(np.nanargmin(self.loss(self.fit.z[None], grids)))]
        for name, axis, value in zip(self.names, axes, best, strict=True):
            if value in (axis[0], axis[-1]):
                side = "smaller" if value == axis[0] else "larger"
                raise ValueError(
                    f"law {self.fit.law} has no best {name} within {BEYOND:g} times those fitted: every {side} one is "
                    "better. Fit a law with a minimum in it (kleiber laws: basin), or run levels further out."
                )
        return best

    def refined(self, z: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Returns the log settings [b, K] where the slope vanishes for working points [b, P], by Newton's steps."""
        count = len(start)
        logs = np.repeat(start[None], len(z), axis=0)
        for _ in range(50):
            bend = np.empty((len(z), count, count))
            for index, step in enumerate(WIDTH * np.eye(count)):
                bend[:, index] = (self.slope(z, logs + step) - self.slope(z, logs - step)) / (2 * WIDTH)
            move = np.linalg.solve(bend, self.slope(z, logs)[..., None])[..., 0]
            logs = logs - np.clip(move, -0.3, 0.3)
            if np.abs(move).max() < 1e-12:
                break
        return logs

    def slope(self, z: np.ndarray, logs: np.ndarray) -> np.ndarray:
        """Returns the derivatives [b, K] of the loss by the log settings."""
        return np.stack([self.loss(z, logs + 1j * STEP * each).imag / STEP for each in np.eye(logs.shape[1])], axis=1)
