"""The figure of the proof: how often each interval held the truth, with its Monte Carlo error and what is allowed."""

import itertools
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


def distance_figure(shares: dict[str, list[float]], ticks: Sequence[str], low: float, high: float) -> "Figure":
    """Draws the share of outcomes inside 90 % intervals at each distance, the first rule in the colour of forecasts."""
    ours = next(iter(shares))
    with house_style():
        figure = new_figure(7.2, 4.2)
        claim = (
            f"Beyond the fitted compute {ours}'s 90 % intervals hold {min(shares[ours]):.0%} to {max(shares[ours]):.0%}"
        )
        set_claim(
            figure, claim, "share of outcomes inside, thirteen public tables fitted on their cheapest 50, 70, 80 %"
        )
        axes = figure.subplots()
        axes.axhspan(low, high, color=QUIET, alpha=0.25, linewidth=0)
        for rule, values in shares.items():
            color, width = (FORECAST, 2.6) if rule == ours else (QUIET, 1.2)
            axes.plot(range(len(values)), values, "o-", color=color, linewidth=width, markersize=4)
        places = _apart([values[-1] for values in shares.values()], 0.055)
        for (rule, values), place in zip(shares.items(), places, strict=True):
            color = FORECAST if rule == ours else INK
            axes.annotate(
                rule, (len(values) - 1, values[-1]), (len(values) - 0.9, place), color=color, fontsize=8, va="center"
            )
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.2, len(ticks) + 0.5)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("compute over the largest fitted run")
    return figure


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Returns places near the values, in their order, at least a gap from each other."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    places = list(values)
    for before, index in itertools.pairwise(order):
        places[index] = max(places[index], places[before] + gap)
    return places
