"""The figure of the proof: how often each interval held the truth, with its Monte Carlo error and what is allowed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kleiber.scaling.figures.style import FORECAST, INK, QUIET, house_style, new_figure, set_claim
from truth.designs import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAIVE = "naive"
"""In the label of a rate that is shown for comparison."""


def coverage_figure(checks: Sequence[Check]) -> "Figure":
    """Draws every rate with two Monte Carlo errors either side, over the span that is allowed."""
    rates = {label: rate for check in checks for label, rate in check.rates.items()}
    meant = [rate for label, rate in rates.items() if NAIVE not in label]
    held = sum(low <= rate <= high for rate, _, low, high in meant)
    with house_style():
        figure = new_figure(8.4, 0.21 * len(rates) + 1.7)
        claim = f"{held} of {len(meant)} intervals hold the truth as often as they say"
        set_claim(figure, claim, "dot: share of simulated sweeps, two Monte Carlo errors; grey: allowed; line: 95 %")
        axes = figure.subplots()
        for row, (label, (rate, error, low, high)) in enumerate(rates.items()):
            color = FORECAST if NAIVE in label else INK
            if NAIVE not in label:
                axes.plot(
                    [low, min(high, 1.0)], [row, row], color=QUIET, alpha=0.35, linewidth=7, solid_capstyle="butt"
                )
            axes.errorbar(rate, row, xerr=2 * error, fmt="o", markersize=4, color=color, elinewidth=1.2)
        axes.set_yticks(range(len(rates)), list(rates), fontsize=8)
        for tick, label in zip(axes.get_yticklabels(), rates, strict=True):
            tick.set_color(FORECAST if NAIVE in label else INK)
        axes.axvline(0.95, color=INK, linewidth=0.8, zorder=0)
        axes.set_ylim(len(rates) - 0.4, -0.6)
        axes.set_xlabel("share of 95 % intervals that hold the truth (colour: noise of trunks ignored)")
    return figure
