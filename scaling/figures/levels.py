"""The figure of a varied knob: loss against a learning rate, a batch size or any numeric factor, size by size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kleiber.scaling.figures import style
from kleiber.scaling.figures.study import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Series:
    """Runs alike in all but one knob (and their seeds)."""

    panel: str
    """Level of the other, named factors; empty when there are none."""
    num_params: float
    num_tokens: float
    level: Floats
    """[runs], the knob, positive."""
    loss: Floats
    """[runs], nats per token."""


def _means(series: Series) -> tuple[Floats, Floats]:
    levels = np.unique(series.level)
    return levels, np.array([series.loss[series.level == level].mean() for level in levels])


def best_level(series: Series) -> float | None:
    """Returns the vertex of a parabola in the logarithm of the knob, or None if the lowest loss is at an end."""
    found = _parabola(series)
    return found[0] if found else None


def regret(series: Series, level: float) -> float | None:
    """Returns the part of the loss that a level loses against the best one by the same parabola.

    None if there is none, or the level lies outside of those that were run.
    """
    found = _parabola(series)
    if found is None or not series.level.min() <= level <= series.level.max():
        return None
    vertex, bend = found
    return float(np.expm1(bend * np.log(level / vertex) ** 2))


def _parabola(series: Series) -> tuple[float, float] | None:
    """Returns (vertex, bend) of log loss over the log of the knob.

    Seeds are averaged; the lowest mean and its two neighbours on each side, where there are as many, carry the fit.
    """
    levels, means = _means(series)
    lowest = int(means.argmin())
    if len(levels) < 3 or lowest in (0, len(levels) - 1):
        return None
    near = slice(max(0, lowest - 2), lowest + 3)
    middle = np.log(levels[lowest])
    bend, slope, _ = np.polyfit(np.log(levels[near]) - middle, np.log(means[near]), 2)
    if bend <= 0:
        return None
    vertex = float(np.exp(middle - slope / (2 * bend)))
    return min(max(vertex, float(levels[lowest - 1])), float(levels[lowest + 1])), float(bend)


def varied_levels(all_series: Sequence[Series], knob: str, sizes: Sequence[float] = ()) -> "Figure":
    """Draws loss against the knob (named with its unit), a line for each size and length, a panel for each level of the
    other factors; `sizes` are all sizes of the study, so that a size keeps its colour."""
    panels = sorted({s.panel for s in all_series})
    colors = style.size_colors([*sizes, *(s.num_params for s in all_series)])
    detail = "dot: a run; line: mean of seeds; diamond: best by parabola"
    with style.claimed_figure(10.2, 4.8, _claim(all_series, panels, knob), detail) as figure:
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        axes[0].set(xscale="log", yscale="log", ylabel="validation loss (nats per token)")
        for axis, panel in zip(axes, panels, strict=True):
            mine = [s for s in all_series if s.panel == panel]
            for series in sorted(mine, key=lambda s: (s.num_params, s.num_tokens)):
                _draw(axis, series, colors[series.num_params])
            axis.set_title(style.plain(panel), loc="left", fontweight="bold")
            axis.set_xlabel(style.plain(knob))
        style.level_ticks(axes[0].xaxis, np.unique(np.concatenate([s.level for s in all_series])).tolist())
        style.loss_ticks(axes[0].yaxis)
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="params, tokens", alignment="left")
    return figure


def _draw(axis: "Axes", series: Series, color: str) -> None:
    levels, means = _means(series)
    name = f"{style.count(series.num_params)}, {style.count(series.num_tokens)}"
    axis.plot(levels, means, color=color, linewidth=1.6, zorder=2, label=name)
    style.draw_dots(axis, series.level, series.loss, color)
    best = best_level(series)
    if best is not None:
        style.draw_diamond(axis, best, float(np.interp(np.log(best), np.log(levels), means)))


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
