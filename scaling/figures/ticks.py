"""Which values an axis labels: as many as its range offers, at most a few, and never two that touch."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullLocator

Offers = Callable[[float, float], list[list[float]]]
"""(low, high) of the view -> sets of values to label, the better ones first among those of one length."""

CHARACTER = 0.64
"""Width of a character over the height of its font (digits of DejaVu Sans)."""
NICE = [1, 2, 2.5, 5, 10]


class Marks(Locator):
    """Labels the longest set on offer that has at most `most` values and room for the words of each."""

    def __init__(self, offers: Offers, words: Callable[[float], str], most: int):
        self.offers, self.words, self.most = offers, words, most

    @property
    def _line(self) -> Axis:
        assert isinstance(self.axis, Axis)
        return self.axis

    def __call__(self) -> Sequence[float]:
        """Returns the values to label in the view as it is."""
        return self.tick_values(*self._line.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Returns the values to label between two ends."""
        low, high = sorted((vmin, vmax))
        offered = [[v for v in values if low <= v <= high] for values in self.offers(low, high)]
        fitting = [values for values in offered if len(values) <= self.most and self._fits(values)]
        return max(fitting, key=len, default=[])

    def _fits(self, values: list[float]) -> bool:
        """Whether no two labels touch, by the size of the axis on the page and that of its letters."""
        line, axes = self._line, self._line.axes
        letter = float(line.majorTicks[0].label1.get_fontsize()) * axes.figure.dpi / 72
        is_x = axes.xaxis is line
        low, high = line.get_transform().transform(np.array(line.get_view_interval()))
        places = line.get_transform().transform(np.array(sorted(values))) / abs(high - low)
        places *= axes.bbox.width if is_x else axes.bbox.height
        sizes = [CHARACTER * len(self.words(v)) * letter if is_x else letter for v in sorted(values)]
        needed = [(one + other) / 2 + 0.6 * letter for one, other in zip(sizes, sizes[1:], strict=False)]
        return bool(np.all(np.diff(places) >= needed))


def logarithmic(low: float, high: float) -> list[list[float]]:
    """Returns sets for a logarithmic axis: 1, 2, 5 in each decade; 1, 3; decades and every so many of them; and under
    one decade, evenly spaced ones too."""
    if not 0 < low < high:
        return []
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    sets = [[m * 10.0**p for p in powers for m in subs] for subs in ((1, 2, 5), (1, 3), (1,))]
    sets += [list(10.0 ** powers[powers % step == 0]) for step in range(2, 7)]
    return sets + linear(low, high) if high < 10 * low else sets


def linear(low: float, high: float) -> list[list[float]]:
    """Returns sets of evenly spaced round values."""
    return [list(MaxNLocator(number, steps=NICE).tick_values(low, high)) for number in (6, 5, 4, 3, 2, 1)]


def signed(low: float, high: float) -> list[list[float]]:
    """Returns sets for a symmetric-log axis that is linear below 1: zero, and the same values on both sides of it."""
    sets = [[v for v in values if v >= 1] for values in logarithmic(1.0, max(-low, high, 1.1))]
    return [[*(-v for v in reversed(values)), 0.0, *values] for values in sets]


def thinned(values: Sequence[float]) -> Offers:
    """Returns what offers all the values given, every second, every third and so on."""
    return lambda low, high: [list(values[::step]) for step in range(1, len(values) + 1)]


def label(axis: Axis, offers: Offers, words: Callable[[float], str], most: int = 5) -> None:
    """Labels an axis by what is on offer, in words, without minor ticks: they cost a third of the time of drawing."""
    axis.set_major_locator(Marks(offers, words, most))
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axis.set_minor_locator(NullLocator())
