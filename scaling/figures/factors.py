"""What each factor does, and how sharply the runs see each constant: local exponents and profiles."""

from typing import TYPE_CHECKING

import numpy as np

from kleiber.scaling.explaining.elasticity import constancy, elasticities, factors_of, reference_points
from kleiber.scaling.figures.style import INK, QUIET, claimed_figure, count_ticks, listing, plain, value_ticks
from kleiber.scaling.fitting.profile import Profile, can_be_profiled, profile
from kleiber.scaling.fitting.result import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE = 25
"""Points along each range."""


def local_exponents(fit: FitResult, level: float = 0.95) -> "Figure":
    """Draws the local exponent of each factor along its range, the others at the middle of the runs."""
    factors = [name for name in factors_of(fit) if fit.points[name].min() > 0]
    verdicts = {each.factor: each for each in constancy(fit, level)}
    moving = [name for name in factors if verdicts[name].verdict.startswith("rejected")]
    claim = f"The exponent moves with {listing(moving)}" if moving else "The runs reject no constant exponent"
    if all(verdicts[name].verdict.startswith("assumed") for name in factors):
        claim = f"Law {fit.law} gives each factor one exponent, whatever the runs say"
    middle = reference_points(fit)[1]
    detail = f"-d ln(L - E) / d ln X by {fit.law}; band: {level:.0%} interval; ticks below: the runs' values"
    with claimed_figure(10.2, 3.9, claim, detail) as figure:
        axes = figure.subplots(1, len(factors), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, factors, strict=True):
            values = np.geomspace(fit.points[name].min(), fit.points[name].max(), CURVE)
            points = [{**middle, name: float(value)} for value in values]
            found = [each for each in elasticities(fit, points, level) if each.factor == name]
            low, high = np.array([each.interval for each in found]).T
            axis.fill_between(values, low, high, color=INK, alpha=0.16, linewidth=0)
            axis.plot(values, [each.value for each in found], color=INK, linewidth=1.8)
            runs = np.unique(fit.points[name])
            axis.plot(runs, np.zeros_like(runs), "|", color=QUIET, markersize=7, clip_on=False)
            axis.set(xscale="log", xlabel=plain(name))
            count_ticks(axis.xaxis)
            axis.axhline(0, color=QUIET, linewidth=0.8)
        axes[0].set_ylabel("local exponent")
    return figure


def profiles(fit: FitResult) -> "Figure":
    """Draws how the fit worsens as each constant is held off its best value, against the 95 % limit. Raises ValueError
    for a law without a constant that can be profiled."""
    found = [profile(fit, name) for name in fit.scaled.free if can_be_profiled(fit, name)]
    open_ended = [each.name for each in found if not _is_closed(each)]
    claim = "Every constant is bounded on both sides by the runs"
    if open_ended:
        claim = f"The runs do not bound {listing(open_ended)} on both sides"
    detail = "rise of the objective over its minimum; dashed: the 95 % limit; shaded: the interval"
    with claimed_figure(10.2, 3.6, claim, detail) as figure:
        axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axis, each in zip(axes, found, strict=True):
            _draw_profile(axis, each, fit)
        highest = max(each.limit for each in found) / fit.objective - 1
        axes[0].set(ylabel="rise of the objective", ylim=(0, 3 * highest))
    return figure


def _is_closed(each: Profile) -> bool:
    return bool(np.isfinite(each.interval_95[1]) and each.interval_95[0] not in (0.0, -np.inf))


def _draw_profile(axis: "Axes", each: Profile, fit: FitResult) -> None:
    rise = each.objective / fit.objective - 1
    low, high = each.interval_95
    axis.axvspan(max(low, each.values.min()), min(high, each.values.max()), color=QUIET, alpha=0.15, linewidth=0)
    axis.plot(each.values, rise, color=INK, linewidth=1.8)
    axis.axhline(each.limit / fit.objective - 1, color=QUIET, linestyle="--", linewidth=1)
    axis.set_xlabel(plain(each.name))
    if each.values.min() > 0 and each.values.max() > 20 * each.values.min():
        axis.set_xscale("log")
        count_ticks(axis.xaxis)
    else:
        value_ticks(axis.xaxis)
