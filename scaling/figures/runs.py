"""Figures of what was measured: training curves, slices at equal compute, and the fitted surface under the runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.scaling.figures import style
from kleiber.scaling.figures.study import (
    Cost,
    Curve,
    Floats,
    ForecastRun,
    Points,
    Predict,
    cost_model,
    frontier,
    loss_at_budget,
    smooth,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_OTHERS = 48
"""Curves of other sizes that stand in grey behind those of one size."""


def loss_curves(
    curves: Sequence[Curve],
    points: Points | None = None,
    num_failed: int = 0,
    sizes: Sequence[float] = (),
    num_trunks: int | None = None,
) -> "Figure":
    """Draws training loss against tokens, one small panel a size: trunks, their cooldowns and the measured points.

    The claim tells the points that failed or diverged, and of how many trunks of the study the curves are. `sizes` are
    all sizes of the study, so that a size keeps its colour."""
    own = sorted({c.num_params for c in curves})
    colors = style.size_colors([*sizes, *own])
    columns = len(own) if len(own) <= 5 else min(-(-len(own) // 2), 5)
    rows = -(-len(own) // columns)
    trunks = sum(not c.is_branch for c in curves)
    branches = len(curves) - trunks
    ending = f"{num_failed} point{'s' if num_failed > 1 else ''} lost" if num_failed else "none lost"
    claim = f"{trunks} trunks, {branches} cooldowns, {ending}" if branches else f"{trunks} runs, {ending}"
    if num_trunks is not None and num_trunks > trunks:
        claim = f"{trunks} of {num_trunks:,} trunks drawn, {ending}"
    detail = "line: smoothed training loss, trunk then cooldowns; grey: the other sizes; dot: validation loss"
    detail += points.drawn_note if points is not None else ""
    with style.claimed_figure(10.2, 1.15 + 2.35 * rows, claim, detail) as figure:
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        lines = [(c, *smooth(c, 10 if c.is_branch else 60)) for c in curves]
        for place, axis in enumerate(axes.flat):
            if place >= len(own):
                axis.set_visible(False)
                continue
            _draw_curves(axis, lines, own[place], colors[own[place]])
            if points is not None:
                drawn = points.drawn
                mine = drawn.num_params == own[place]
                style.draw_dots(axis, drawn.num_tokens[mine], drawn.loss[mine], colors[own[place]], markersize=4.5)
            axis.set_title(
                f"{style.count(own[place])} parameters", loc="left", color=colors[own[place]], fontweight="bold"
            )
        _frame_curves(axes, lines, points)
    return figure


def _draw_curves(axis: "Axes", lines: Sequence[tuple[Curve, Floats, Floats]], size: float, color: str) -> None:
    others = [line for line in lines if line[0].num_params != size and not line[0].is_branch]
    for _, tokens, loss in others[:: max(1, -(-len(others) // MOST_OTHERS))]:
        axis.plot(tokens, loss, color="#dcdde1", linewidth=0.7, zorder=1)
    for curve, tokens, loss in lines:
        if curve.num_params == size:
            width, alpha = (1.3, 1.0) if curve.is_branch else (1.0, 0.55)
            axis.plot(tokens, loss, color=color, linewidth=width, alpha=alpha, zorder=3)


def _frame_curves(axes: "np.ndarray", lines: Sequence[tuple[Curve, Floats, Floats]], points: Points | None) -> None:
    """Sets the shared axes: logarithmic, the top cut where the first steps would squeeze the rest."""
    ends = [loss[-1] for _, _, loss in lines if loss.size] + ([] if points is None else list(points.loss))
    lows = [loss.min() for _, _, loss in lines if loss.size] + ([] if points is None else [points.loss.min()])
    first = axes.flat[0]
    first.set(xscale="log", yscale="log")
    if lows:
        top = 1.5 * max(ends)
        first.set_ylim(0.95 * min(lows), top)
        starts = [tokens[loss < top][0] for _, tokens, loss in lines if (loss < top).any()]
        first.set_xlim(0.8 * min(starts), 1.4 * max(tokens[-1] for _, tokens, _ in lines if tokens.size))
    style.loss_ticks(first.yaxis)
    style.count_ticks(first.xaxis)
    visible = [axis for axis in axes.flat if axis.get_visible()]
    for axis in visible[-axes.shape[1] :]:
        axis.set_xlabel("tokens")
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("loss (nats per token)")


def isoflop_slices(points: Points, predict: Predict, num_budgets: int = 4, sizes: Sequence[float] = ()) -> "Figure":
    """Draws loss against size at a few equal budgets, with the law's line and its best size on each; `sizes` are all
    sizes of the study, so that a size keeps its colour.

    Runs need not lie on the budgets: each size is read between its own measured runs, the law carrying the
    curvature."""
    cost = cost_model(points)
    colors = style.size_colors([*sizes, *points.num_params])
    budgets = _budgets(points, cost, num_budgets)
    span = (points.num_params.min() / 2.2, points.num_params.max() * 2.2)
    best, tokens = frontier(predict, cost, budgets, span)
    moved = f"the best size grows from {style.count(best[0])} to {style.count(best[-1])} parameters"
    claim = f"With {budgets[-1] / budgets[0]:.0f}× the compute {moved}"
    detail = "each line: one compute budget; diamond: its best size; dot: a size read between its own runs"
    with style.claimed_figure(10.2, 4.9, claim, detail + points.sizes_note) as figure:
        axis = figure.subplots()
        axis.set(xscale="log", yscale="log", xlabel="parameters", ylabel="validation loss (nats per token)")
        grid = np.geomspace(*span, 200)
        shown = []
        for budget, size, count_tokens in zip(budgets, best, tokens, strict=True):
            line = predict(grid, budget / cost(grid))
            axis.plot(grid, line, color=style.QUIET, linewidth=1.3, zorder=2)
            lowest = float(predict(np.array([size]), np.array([count_tokens]))[0])
            style.draw_diamond(axis, size, lowest, markersize=6.5, zorder=3)
            place: dict[str, Any] = {"xytext": (0, -9), "textcoords": "offset points", "ha": "center", "va": "top"}
            axis.annotate(f"{style.compute(budget)} FLOPs", (size, lowest), fontsize=9.5, color="#555555", **place)
            shown.append(lowest)
            for own in points.drawn_sizes:
                loss = loss_at_budget(points, predict, cost, float(own), float(budget))
                if loss is not None:
                    style.draw_dots(axis, own, loss, colors[own], markersize=7)
                    shown.append(loss)
        axis.set(xlim=span, ylim=(min(shown) / 1.045, max(shown) * 1.06))
        style.count_ticks(axis.xaxis)
        style.loss_ticks(axis.yaxis)
    return figure


def _budgets(points: Points, cost: Cost, num_budgets: int) -> Floats:
    """Returns budgets spread evenly in log over the range where at least two sizes have runs on both sides."""
    sizes = np.unique(points.num_params)
    lows = sorted(points.flops[points.num_params == size].min() for size in sizes)
    highs = sorted((points.flops[points.num_params == size].max() for size in sizes), reverse=True)
    second = min(1, len(sizes) - 1)
    low, high = lows[second], highs[second]
    return np.geomspace(low, high, num_budgets) if high > low else np.array([points.flops.min(), points.flops.max()])


def fitted_surface(points: Points, predict: Predict, targets: Sequence[ForecastRun] = ()) -> "Figure":
    """Draws the law's loss over size and tokens as contours, with the runs, the targets and the frontier on it."""
    colors = style.size_colors([*points.num_params, *(t.num_params for t in targets)])
    params = np.concatenate([points.num_params, [t.num_params for t in targets]])
    tokens = np.concatenate([points.num_tokens, [t.num_tokens for t in targets]])
    params_grid = np.geomspace(params.min() / 1.5, params.max() * 1.6, 120)
    tokens_grid = np.geomspace(tokens.min() / 1.6, tokens.max() * 1.6, 120)
    mesh_params, mesh_tokens = np.meshgrid(params_grid, tokens_grid)
    loss = predict(mesh_params, mesh_tokens)
    cost = cost_model(points, targets)
    ratio = points.num_tokens / points.num_params
    decades = np.log10(ratio.max() / ratio.min())
    reach = f"; targets {max(t.compute_ratio for t in targets):.1f}× beyond" if targets else ""
    claim = f"Runs span {ratio.min():.3g} to {ratio.max():.3g} tokens per parameter ({decades:.1f} decades){reach}"
    detail = "contours: the fitted law, nats per token; shaded: more compute than any fitted run" + points.drawn_note
    with style.claimed_figure(10.2, 5.4, claim, detail) as figure:
        axis = figure.subplots()
        axis.set_xscale("log")
        axis.set_yscale("log")
        levels = np.unique(np.round(np.geomspace(loss.min() * 1.01, np.percentile(loss, 97), 13), 2))
        lines = axis.contour(mesh_params, mesh_tokens, loss, levels=levels, colors="#9aa3b5", linewidths=0.9, zorder=2)
        axis.clabel(lines, levels[1::2], fmt=lambda value: f"{value:.2f}", fontsize=8.5, colors="#6b7385")
        edge = points.flops.max() / cost(params_grid)
        axis.fill_between(
            params_grid,
            edge,
            tokens_grid[-1],
            where=edge < tokens_grid[-1],
            color=style.UNTRAINED,
            linewidth=0,
            zorder=0,
        )
        corners = cost(params_grid[[0, -1]]) * tokens_grid[[0, -1]]
        budgets = np.geomspace(corners[0], corners[1], 80)
        best, best_tokens = frontier(predict, cost, budgets, (params_grid[0] / 30, params_grid[-1] * 30))
        axis.plot(best, best_tokens, color=style.INK, linewidth=2, zorder=3, label="best for the compute")
        drawn = points.drawn
        for size in np.unique(drawn.num_params):
            mine = drawn.num_params == size
            name = "fitted run" if size == drawn.num_params.min() else None
            style.draw_dots(
                axis, drawn.num_params[mine], drawn.num_tokens[mine], colors[size], markersize=7, label=name
            )
        for index, target in enumerate(targets):
            look = {"markersize": 9, "markeredgewidth": 1.6, "label": "target" if index == 0 else None}
            style.draw_diamond(axis, target.num_params, target.num_tokens, style.FORECAST, **look)
        axis.set(xlim=params_grid[[0, -1]], ylim=tokens_grid[[0, -1]], xlabel="parameters", ylabel="training tokens")
        style.count_ticks(axis.xaxis, axis.yaxis)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
