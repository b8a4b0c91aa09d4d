"""The figure of a factor of two levels or of names: every pair's difference, place by place, against zero."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kleiber.scaling.figures.style import INK, QUIET, claimed_figure, draw_dots, plain, value_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MOST_PLACES = 24
"""Rows that a figure can hold."""


@dataclass(frozen=True)
class Compared:
    """A level against another."""

    name: str
    differences: Mapping[str, Sequence[float]]
    """By place: of every pair, the loss at the level less the loss at the other."""
    interval: tuple[float, float] | None = None
    """Of the mean, drawn as a band."""


def differences_figure(compared: Sequence[Compared], claim: str, unit: str) -> "Figure":
    """Draws one row a place and one dot a pair; left of the line of zero the level has the lower loss. Rows that are of
    one comparison each need no legend.

    Args:
      compared: at least one.
      claim: the sentence above.
      unit: of the differences.
    """
    places = list(dict.fromkeys(place for each in compared for place in each.differences))
    shown = places[:MOST_PLACES]
    has_shared_rows = len(places) < sum(len(each.differences) for each in compared) or len(compared) == 1
    more = f"; {len(shown)} of {len(places)} combinations drawn" if len(places) > len(shown) else ""
    band = "; band: 95 % interval of the mean" if any(each.interval for each in compared) else ""
    detail = f"dot: a pair of runs alike in everything else{band}{more}"
    height = 1.9 + 0.34 * max(2, len(shown)) * max(1, len(compared) // 2)
    with claimed_figure(10.2, height, claim, detail) as figure:
        axis = figure.add_subplot()
        axis.axvline(0, color=INK, linewidth=1.2)
        for index, each in enumerate(compared):
            color = COLORS[index % len(COLORS)]
            rows = [shown.index(place) for place in each.differences if place in shown]
            if each.interval and rows:
                ends = (min(rows) - 0.5, max(rows) + 0.5)
                axis.fill_betweenx(ends, *each.interval, color=color, alpha=0.13, linewidth=0)
            offset = 0.5 * ((index + 0.5) / len(compared) - 0.5) if has_shared_rows else 0.0
            dots = [(d, shown.index(p) + offset) for p, ds in each.differences.items() if p in shown for d in ds]
            x, y = zip(*dots, strict=True)
            draw_dots(axis, x, y, color, label=plain(each.name), markersize=8)
        axis.set_yticks(range(len(shown)), [plain(place) for place in shown])
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.set_xlabel(f"difference ({unit}); left of the line is better")
        axis.grid(axis="y", visible=False)
        value_ticks(axis.xaxis, most=8)
        axis.spines["left"].set_color(QUIET)
        if has_shared_rows:
            axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
