"""The best level of a knob by a parabola, how sure it is, and how far it moves between two sets of runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kleiber.scaling.fitting.estimates import t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Parabola:
    """ln loss = height + bend (ln level - ln vertex)^2, through the lowest loss and two neighbours on each side."""

    vertex: float
    """The best level; kept between the neighbours of the lowest loss."""
    bend: float
    height: float
    """ln loss at the vertex."""
    squares: float
    """Sum of the squared residuals of ln loss."""
    degrees: int
    """Points less three constants: what the residuals leave to judge noise by."""
    log_vertex_variance: float
    """Variance of ln vertex for a noise of 1 in ln loss."""

    def loss(self, level: float) -> float:
        """Returns the loss on the parabola."""
        return float(np.exp(self.height + self.bend * np.log(level / self.vertex) ** 2))


def fit_parabola(level: "NDArray[np.float64]", loss: "NDArray[np.float64]") -> Parabola | None:
    """Returns the parabola through the losses [runs] over the logarithms of positive levels [runs].

    Seeds are averaged. None where the lowest mean is at an end of the levels, or there are fewer than three.
    """
    levels = np.unique(level)
    means = np.array([loss[level == each].mean() for each in levels])
    lowest = int(means.argmin())
    if levels[0] <= 0 or len(levels) < 3 or lowest in (0, len(levels) - 1):
        return None
    near = slice(max(0, lowest - 2), lowest + 3)
    middle = np.log(levels[lowest])
    x, y = np.log(levels[near]) - middle, np.log(means[near])
    design = np.vander(x, 3)
    bend, slope, constant = np.linalg.lstsq(design, y, rcond=None)[0]
    if bend <= 0:
        return None
    free = -slope / (2 * bend)
    vertex = float(np.clip(np.exp(middle + free), levels[lowest - 1], levels[lowest + 1]))
    at = np.log(vertex) - middle
    height = float(constant + slope * at + bend * at**2)
    residuals = y - design @ (bend, slope, constant)
    gradient = np.array([-free / bend, -1 / (2 * bend), 0.0])
    variance = float(gradient @ np.linalg.inv(design.T @ design) @ gradient)
    return Parabola(vertex, float(bend), height, float(residuals @ residuals), len(x) - 3, variance)


@dataclass(frozen=True)
class Move:
    """By what the best level is multiplied from one set of runs to another."""

    factor: float
    interval: tuple[float, float] | None
    """95 %; None where nothing says how large the noise is."""
    degrees: int

    @property
    def is_seen(self) -> bool | None:
        """Whether the interval excludes no move; None without one."""
        return None if self.interval is None else not self.interval[0] <= 1 <= self.interval[1]


def smoothness_noise(found: Sequence[Parabola]) -> tuple[float, int]:
    """Returns (noise of one ln loss, degrees of freedom): how far runs lie off their parabolas, lack of fit included.

    It serves where no seed was repeated; NaN without a degree of freedom.
    """
    degrees = sum(each.degrees for each in found)
    return (float(np.sqrt(sum(each.squares for each in found) / degrees)) if degrees else float("nan")), degrees


def move(pairs: Sequence[tuple[Parabola, Parabola]], noise: float, degrees: int) -> Move:
    """Returns the mean move of the best level over pairs of parabolas, with a t interval of a given noise."""
    logs = [np.log(b.vertex / a.vertex) for a, b in pairs]
    mean = float(np.mean(logs))
    if not degrees:
        return Move(float(np.exp(mean)), None, 0)
    error = noise * np.sqrt(sum(a.log_vertex_variance + b.log_vertex_variance for a, b in pairs)) / len(pairs)
    reach = float(t_quantile(degrees, 0.975)) * error
    return Move(float(np.exp(mean)), (float(np.exp(mean - reach)), float(np.exp(mean + reach))), degrees)
