"""The figure of a varied knob: loss against a learning rate, a batch size or any numeric factor, size by size."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.scaling.explaining.parabola import Parabola, fit_parabola
from kleiber.scaling.figures import style
from kleiber.scaling.figures.study import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("-", (0, (5, 1, 1, 1)), ":")
"""Of the longest runs of a size, the next, and so on: its colour says the size."""
MOST_COLUMNS = 4
"""Panels side by side; more go below."""


@dataclass(frozen=True)
class Series:
    """Runs alike in all but one knob (and their seeds)."""

    panel: str
    """Level of the other factors; empty when there are none."""
    num_params: float
    num_tokens: float
    level: Floats
    """[runs], the knob."""
    loss: Floats
    """[runs], nats per token, or bits per byte."""
    lost: Floats = field(default_factory=lambda: np.empty(0))
    """[lost runs], the knob of those that diverged or were cut early."""

    @property
    def parabola(self) -> Parabola | None:
        """Through the losses over the logarithms of the levels."""
        return fit_parabola(self.level, self.loss)


def _means(series: Series) -> tuple[Floats, Floats]:
    levels = np.unique(series.level)
    return levels, np.array([series.loss[series.level == level].mean() for level in levels])


def best_level(series: Series) -> float | None:
    """Returns the vertex of a parabola in the logarithm of the knob, or None if the lowest loss is at an end."""
    found = series.parabola
    return found.vertex if found else None


def regret(series: Series, level: float) -> float | None:
    """Returns the part of the loss that a level loses against the best one by the same parabola.

    None if there is none, or the level lies outside of those that were run.
    """
    found = series.parabola
    if found is None or not series.level.min() <= level <= series.level.max():
        return None
    return float(np.expm1(found.bend * np.log(level / found.vertex) ** 2))


def varied_levels(
    all_series: Sequence[Series], knob: str, sizes: Sequence[float] = (), claim: str = "", unit: str = "nats per token"
) -> "Figure":
    """Draws loss against the knob, a line for each size and length, a panel for each level of the other factors.

    Levels of which one is zero or less stand side by side, at even distances.

    Args:
      all_series: at least one.
      knob: name of what is varied, with its unit if it has one.
      sizes: all sizes of the study, so that a size keeps its colour.
      claim: the sentence above; how the best level moves over the sizes if left out.
      unit: of the losses.
    """
    panels = list(dict.fromkeys(s.panel for s in all_series))
    levels = np.unique(np.concatenate([each for s in all_series for each in (s.level, s.lost)]))
    one_size = len({s.num_params for s in all_series}) == 1
    key = "num_tokens" if one_size else "num_params"
    lengths = sorted({s.num_tokens for s in all_series}, reverse=True)
    colors = style.size_colors([*(() if one_size else sizes), *(getattr(s, key) for s in all_series)])
    detail = "dot: a run; line: mean of seeds; diamond and dashes: best by parabola"
    detail += "; cross: diverged, or cut early" if any(s.lost.size for s in all_series) else ""
    columns = min(len(panels), MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    height = 4.8 if rows == 1 else 2.9 * rows
    with style.claimed_figure(10.2, height, claim or _claim(all_series, panels, knob), detail) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        axes = grid.ravel()
        axes[0].set_yscale("log")
        for axis in grid[:, 0]:
            axis.set_ylabel(f"validation loss ({unit})")
        if levels[0] > 0:
            axes[0].set_xscale("log")
            style.level_ticks(axes[0].xaxis, levels.tolist())
        else:
            axes[0].set_xticks(range(len(levels)), [f"{level:.4g}" for level in levels])
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        for axis, panel in zip(axes, panels, strict=False):
            mine = [s for s in all_series if s.panel == panel]
            for series in sorted(mine, key=lambda s: (s.num_params, s.num_tokens)):
                style_of = "-" if one_size else LINES[lengths.index(series.num_tokens) % len(LINES)]
                _draw(axis, series, colors[getattr(series, key)], levels, style_of)
            # one level of a factor a line, or titles of neighbours run into each other
            title = style.plain(panel).replace(", ", "\n" if columns > 2 else ", ")
            axis.set_title(title, loc="left", fontweight="bold")
            axis.set_xlabel(style.plain(knob))
        style.loss_ticks(axes[0].yaxis)
        marks = {name: mark for axis in axes for mark, name in zip(*axis.get_legend_handles_labels(), strict=True)}
        legend = {"title": "params, tokens", "alignment": "left", "loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        grid[0, -1].legend(marks.values(), marks, **legend)
    return figure


def _draw(axis: "Axes", series: Series, color: str, every_level: Floats, line: Any) -> None:
    levels, means = _means(series)
    is_even = every_level[0] <= 0

    def place(values: Floats) -> Floats:
        return np.searchsorted(every_level, values).astype(np.float64) if is_even else values

    name = f"{style.count(series.num_params)}, {style.count(series.num_tokens)}"
    axis.plot(place(levels), means, color=color, linestyle=line, linewidth=1.6, zorder=2, label=name)
    style.draw_dots(axis, place(series.level), series.loss, color)
    lost = place(series.lost)
    axis.plot(lost, np.full(lost.shape, 0.97), "x", color=color, transform=axis.get_xaxis_transform(), clip_on=False)
    found = None if is_even else series.parabola
    if found is not None:
        reach = np.geomspace(levels.min(), levels.max(), 60)
        near = reach[np.abs(np.log(reach / found.vertex)) < np.log(2.2)]
        axis.plot(near, [found.loss(level) for level in near], "--", color=color, linewidth=1.0, zorder=3)
        style.draw_diamond(axis, found.vertex, found.loss(found.vertex))


def _claim(all_series: Sequence[Series], panels: Sequence[str], knob: str) -> str:
    """Says how far the best level moves from the smallest to the largest size, in octaves, in each panel."""
    said, spans = [], set()
    for panel in panels:
        mine = sorted((s for s in all_series if s.panel == panel), key=lambda s: (s.num_params, s.num_tokens))
        first, last = mine[0], mine[-1]
        bests = best_level(first), best_level(last)
        where = f" ({panel})" if panel else ""
        if bests[0] is None or bests[1] is None:
            said.append(f"is at an end of the range tried{where}")
        elif first.num_params == last.num_params:
            said.append(f"is {bests[0]:.2g} at {style.count(first.num_params)} parameters{where}")
        else:
            said.append(f"moves {abs(np.log2(bests[1] / bests[0])):.2f} octaves{where}")
            spans.add(f"{last.num_params / first.num_params:.0f}×")
    claim = f"the best {knob} {style.listing(said)}"
    return f"Over {style.listing(sorted(spans))} parameters {claim}" if spans else claim[:1].upper() + claim[1:]
