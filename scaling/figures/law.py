"""Figures of the fitted law: its compute-optimal frontier, its residuals, and its parameters beside the rivals'."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.scaling.figures import style
from kleiber.scaling.figures.study import Cost, Floats, Points, Predict, even_rows, frontier, log_residuals
from kleiber.scaling.fitting.result import Estimate, FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TRUNKS = 240
"""Trunks that the figure of residuals draws side by side."""
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ"}


def optimal_frontier(
    points: Points,
    predict: Predict,
    draws: Sequence[Predict],
    cost: Cost,
    reach: float = 1.0,
    sizes: Sequence[float] = (),
) -> "Figure":
    """Draws the compute-optimal size and token count against compute, up to `reach` times the largest fitted run, with
    intervals from draws of the law, each of which gives one frontier; `sizes` are all sizes of the study, so that a
    size keeps its colour."""
    edge = float(points.flops.max())
    budgets = np.geomspace(points.flops.min(), edge * max(reach, 1.5) * 1.3, 40)
    span = (points.num_params.min() / 100, points.num_params.max() * 100)
    best, tokens = frontier(predict, cost, budgets, span)
    many = [frontier(draw, cost, budgets, span) for draw in draws]
    slope, half = _slope(budgets, best, [m[0] for m in many])
    margin = f" ± {half:.2f}" if np.isfinite(half) else ""
    claim = f"The best size grows as compute to the power {slope:.2f}{margin}, the tokens as {1 - slope:.2f}"
    detail = "line: lowest loss for the counted compute; band: 95 % interval; dots: the fitted runs" + points.drawn_note
    with style.claimed_figure(10.2, 4.4, claim, detail) as figure:
        left, right = figure.subplots(1, 2)
        colors = style.size_colors([*sizes, *points.num_params])
        drawn = points.drawn
        for axis, line, index, measured, label in (
            (left, best, 0, drawn.num_params, "best size (parameters)"),
            (right, tokens, 1, drawn.num_tokens, "best training length (tokens)"),
        ):
            axis.set(xscale="log", yscale="log", xlabel="training compute (FLOPs, counted)", ylabel=label)
            axis.axvspan(edge, budgets[-1], color=style.UNTRAINED, zorder=0)
            if many:
                low, high = np.quantile([m[index] for m in many], [0.025, 0.975], axis=0)
                axis.fill_between(budgets, low, high, color=style.INK, alpha=0.16, linewidth=0, zorder=2)
            axis.plot(budgets, line, color=style.INK, linewidth=2, zorder=3)
            shades = [colors[s] for s in drawn.num_params]
            axis.scatter(drawn.flops, measured, s=22, c=shades, edgecolors="white", linewidths=0.5, zorder=4)
            axis.set_xlim(budgets[0] / 1.2, budgets[-1])
            style.count_ticks(axis.yaxis)
            style.compute_ticks(axis.xaxis)
    return figure


def _slope(budgets: Floats, sizes: Floats, many: Sequence[Floats]) -> tuple[float, float]:
    """Returns the log-log slope of size against compute and half its interval (nan without draws)."""
    x = np.log(budgets)
    slope = float(np.polyfit(x, np.log(sizes), 1)[0])
    if not many:
        return slope, float("nan")
    slopes = [np.polyfit(x, np.log(s), 1)[0] for s in many]
    low, high = np.quantile(slopes, [0.025, 0.975])
    return slope, float(high - low) / 2


def residuals(points: Points, predict: Predict, sizes: Sequence[float] = ()) -> "Figure":
    """Draws log residuals of the fitted runs against size, against tokens and by trunk, with the band of their own
    spread; `sizes` are all sizes of the study, so that a size keeps its colour."""
    values = 100 * log_residuals(points, predict)
    rms = float(np.sqrt(np.mean(values**2)))
    colors = style.size_colors([*sizes, *points.num_params])
    rows = even_rows(values)
    drawn, heights = points.rows(rows), values[rows]
    shades = [colors[s] for s in drawn.num_params]
    claim = f"The law misses its own runs by {style.percent(rms / 100)} (rms); {_trends(points, values)}"
    detail = "one dot a run; band: ± twice the root mean square; by trunk: runs of one trunk share their noise"
    with style.claimed_figure(10.2, 4.0, claim, detail + points.drawn_note) as figure:
        left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 1.25))
        left.scatter(drawn.num_params, heights, s=30, c=shades, edgecolors="white", linewidths=0.5, zorder=3)
        middle.scatter(drawn.num_tokens, heights, s=30, c=shades, edgecolors="white", linewidths=0.5, zorder=3)
        _draw_trunks(right, points, values, colors)
        for axis, label in ((left, "parameters"), (middle, "training tokens")):
            axis.set(xscale="log", xlabel=label)
            style.count_ticks(axis.xaxis)
        right.set_xticks([])
        left.set_ylabel("measured against law (%)")
        for axis in (left, middle, right):
            axis.axhspan(-2 * rms, 2 * rms, color=style.QUIET, alpha=0.14, linewidth=0, zorder=0)
            axis.axhline(0, color=style.INK, linewidth=1, zorder=1)
        reach = max(2.6 * rms, 1.15 * float(np.abs(values).max()), 0.02)
        left.set_ylim(-reach, reach)
    return figure


def _draw_trunks(axis: "Axes", points: Points, values: Floats, colors: dict[float, str]) -> None:
    """Draws the residuals trunk by trunk with their mean, smallest size first; of very many trunks some, evenly."""
    _, first, which, members = np.unique(points.trunk, return_index=True, return_inverse=True, return_counts=True)
    means = np.bincount(which.ravel(), values) / members
    order = np.argsort(points.num_params[first], kind="stable")
    shown = order[even_rows(np.arange(len(order), dtype=np.float64), MOST_TRUNKS)]
    place = np.full(len(order), -1)
    place[shown] = np.arange(len(shown))
    rows = np.flatnonzero(place[which.ravel()] >= 0)
    rows = rows[even_rows(values[rows])]
    shades = [colors[size] for size in points.num_params[rows]]
    axis.scatter(place[which.ravel()[rows]], values[rows], s=30, c=shades, edgecolors="white", linewidths=0.5, zorder=3)
    for index, trunk in enumerate(shown):
        axis.plot([index - 0.35, index + 0.35], [means[trunk]] * 2, color=style.INK, linewidth=1.5, zorder=4)
    is_part = len(shown) < len(order)
    some = f"{len(shown):,} of {len(order):,} trunks by size (bar: mean)"
    axis.set_xlabel(some if is_part else "trunk, smallest to largest (bar: its mean)")


def _trends(points: Points, values: Floats) -> str:
    """Says whether residuals bend with size or tokens: a quadratic in the logarithm, as a line is already fitted."""
    bent = []
    for name, x in (("size", points.num_params), ("tokens", points.num_tokens)):
        u = np.log(x / np.exp(np.log(x).mean()))
        if len(np.unique(u)) < 4 or len(u) < 6:
            continue
        design = np.stack([np.ones_like(u), u, u**2], axis=1)
        solution, *_ = np.linalg.lstsq(design, values, rcond=None)
        spread = np.sum((values - design @ solution) ** 2) / (len(u) - 3)
        error = np.sqrt(spread * np.linalg.inv(design.T @ design)[2, 2])
        if abs(solution[2]) > 2.5 * error:
            bent.append(name)
    return "no bend with size or tokens" if not bent else f"they bend with {' and '.join(bent)}"


def parameters_by_law(laws: Sequence[FitResult]) -> "Figure":
    """Draws each parameter of the first, registered law: its estimate and 95 % interval under every law that has it."""
    shown = list(_fitted(laws[0]))
    rms = ", ".join(f"{law.law} {style.percent(law.residual_rms)}" for law in laws)
    detail = f"dot: estimate; bar: 95 % interval; root mean square residual: {rms}"
    with style.claimed_figure(10.2, 1.7 + 0.36 * max(len(laws), 2), _form_claim(laws), detail) as figure:
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, shown, strict=True):
            _draw_parameter(axis, laws, name)
        axes[0].set_yticks(range(len(laws)), [style.plain(law.law) for law in laws])
        axes[0].set_ylim(len(laws) - 0.5, -0.5)
    return figure


def _fitted(fit: FitResult) -> dict[str, Estimate]:
    return {name: each for name, each in fit.parameters.items() if not each.fixed}


def _draw_parameter(axis: "Axes", laws: Sequence[FitResult], name: str) -> None:
    for row, law in enumerate(laws):
        value = _fitted(law).get(name)
        if value and not value.withheld:
            color = style.INK if row == 0 else style.QUIET
            axis.plot(value.interval_95, [row, row], color=color, linewidth=2.4, alpha=0.55, solid_capstyle="butt")
            axis.plot(value.estimate, row, "o", color=color, markersize=7)
        else:
            look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": style.QUIET}
            axis.text(0.5, row, "withheld" if value else "–", transform=axis.get_yaxis_transform(), **look)
    axis.set_title(GREEK.get(name, style.plain(name)), loc="center", fontweight="bold")
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.15)
    style.value_ticks(axis.xaxis, most=4)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _form_claim(laws: Sequence[FitResult]) -> str:
    """Says how far the exponents depend on the form chosen, from the laws that give them."""
    exponents = [
        {name: each.estimate for name, each in _fitted(law).items() if name in ("alpha", "beta") and not each.withheld}
        for law in laws
    ]
    spreads = {}
    for name in ("alpha", "beta"):
        values = [found[name] for found in exponents if name in found]
        if len(values) > 1 and min(values) > 0:
            spreads[name] = max(values) / min(values) - 1
    if not spreads:
        text = ", ".join(f"{name} {value:.3f}" for name, value in exponents[0].items()) or "exponents withheld"
        return f"{laws[0].law}: {text}"
    worst = max(spreads.values())
    if worst < 0.1:
        return f"Exponents agree within {style.percent(worst)} over {len(laws)} forms"
    return f"Exponents move by {100 * worst:.0f} % with the form: read the forecast, not the exponents"
