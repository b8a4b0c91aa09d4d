"""The look every figure shares: one colour for a size everywhere, plain axes, numbers in words a reader uses."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK = "#222222"
"""The law and the text."""
FORECAST = "#D55E00"
"""Whatever was written down before it was measured (vermilion of Okabe and Ito's colour-blind-safe set)."""
QUIET = "#8a8f98"
"""Context: grids, guides, rivals."""
UNTRAINED = "#fbf1e7"
"""Ground of the region where nothing was trained when the forecast was written."""

SETTINGS: dict[Any, Any] = {
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 10.5),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9.5),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow", "text.parse_math"), True),
    **dict.fromkeys(("text.color", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), "#444444"),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), "white"),
    "axes.edgecolor": "#777777",
    "axes.linewidth": 0.8,
    "grid.color": "#e9e9ec",
    "grid.linewidth": 0.7,
    "figure.dpi": 110,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Applies the shared settings while a figure is drawn, leaving the caller's matplotlib as it was."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty figure in inches that no global state remembers, so that drawing many leaks nothing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@contextmanager
def claimed_figure(width: float, height: float, claim: str, detail: str = "") -> "Iterator[Figure]":
    """Yields an empty figure in the house style, `width` by `height` inches, with its claim written above it."""
    with house_style():
        figure = new_figure(width, height)
        set_claim(figure, claim, detail)
        yield figure


def draw_dots(axis: "Axes", x: Any, y: Any, color: str, **changes: Any) -> None:
    """Draws measured runs: filled dots with a thin white rim, so that overlapping seeds stay apart."""
    look = {"markersize": 6.0, "markeredgecolor": "white", "markeredgewidth": 0.6, "zorder": 4, **changes}
    axis.plot(x, y, "o", color=color, **look)


def draw_diamond(axis: "Axes", x: float, y: float, color: str = INK, **changes: Any) -> None:
    """Draws a hollow diamond: a best value, or a run that was not trained when it was forecast."""
    look = {"markerfacecolor": "white", "markersize": 7, "markeredgewidth": 1.4, "zorder": 5, **changes}
    axis.plot(x, y, "D", color=color, **look)


def draw_forecast(axis: "Axes", x: float, low: float, middle: float, high: float, **changes: Any) -> None:
    """Draws a registered forecast: a hollow diamond with the bar of its interval."""
    look = {"markerfacecolor": "white", "markersize": 9, "markeredgewidth": 1.6, "elinewidth": 1.8, "capsize": 5}
    reach = [[middle - low], [high - middle]]
    axis.errorbar(x, middle, yerr=reach, fmt="D", color=FORECAST, **{"zorder": 5, **look, **changes})


def draw_measured(axis: "Axes", x: float, y: float, color: str, **changes: Any) -> None:
    """Draws the outcome of a forecast: a dot in the colour of its size, rimmed in ink."""
    draw_dots(axis, x, y, color, **{"markeredgecolor": INK, "markeredgewidth": 0.9, "zorder": 6, **changes})


def set_claim(figure: "Figure", claim: str, detail: str = "") -> None:
    """Writes the claim above the figure, bold and flush left, with one grey line of detail under it."""
    width, height = figure.get_size_inches()
    claim = "\n".join(textwrap.wrap(claim, int(8.7 * width)))  # 8.7 bold letters of this size fill an inch
    lines = claim.count("\n") + 1
    top = 1 - (0.14 + 0.25 * lines + (0.24 if detail else 0)) / height
    margins: dict[str, Any] = {"rect": (0.0, 0.01, 0.996, top - 0.01), "wspace": 0.03}
    figure.set_layout_engine("constrained", **margins)
    figure.text(0.003, 1 - 0.09 / height, plain(claim), ha="left", va="top", fontsize=13, fontweight="bold")
    if detail:
        line = 1 - (0.12 + 0.25 * lines) / height
        figure.text(0.003, line, plain(detail), ha="left", va="top", fontsize=10, color="#666666")


def claim_of(figure: "Figure") -> str:
    """Returns the figure's claim, for the text that stands in for the image."""
    return figure.texts[0].get_text().replace(r"\$", "$").replace("\n", " ") if figure.texts else ""


def listing(words: Sequence[str]) -> str:
    """Returns words as a reader lists them: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def plural(number: int, noun: str) -> str:
    """Returns `one size`, `2 sizes`."""
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def plain(text: str) -> str:
    """Returns text with the dollar signs that matplotlib would read as mathematics made literal."""
    return text.replace("$", r"\$")


def size_colors(sizes: Sequence[float]) -> dict[float, str]:
    """Returns a colour for each parameter count, dark for small to light for large, without viridis' pale end; pass all
    sizes of a study so that each keeps its colour."""
    import matplotlib
    from matplotlib.colors import to_hex

    distinct = sorted({float(size) for size in sizes})
    positions = np.linspace(0.0, 0.87, max(len(distinct), 2))
    return {
        size: to_hex(matplotlib.colormaps["viridis"](place)) for size, place in zip(distinct, positions, strict=False)
    }


def count(number: float) -> str:
    """Returns a count in three figures with its prefix: 245760 is `246k`."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"


def compute(flops: float) -> str:
    """Returns FLOPs as `1.4e12`."""
    mantissa, exponent = f"{flops:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def percent(fraction: float, signed: bool = False) -> str:
    """Returns a fraction as a percentage to a hundredth below 10 %, with a true minus sign: -0.0043 is `−0.43 %`."""
    value = 100 * fraction
    digits = 2 if abs(value) < 9.995 else 0
    return f"{value:{'+' if signed else ''}.{digits}f} %".replace("-", "\N{MINUS SIGN}").replace(
        " ", "\N{NO-BREAK SPACE}"
    )


def count_ticks(*axes: "Axis") -> None:
    """Labels logarithmic axes of counts with prefixes instead of powers of ten."""
    from kleiber.scaling.figures.ticks import label, logarithmic

    for axis in axes:
        label(axis, logarithmic, count)


def compute_ticks(axis: "Axis") -> None:
    """Labels a logarithmic axis of FLOPs as the text writes them, `2e11`."""
    from kleiber.scaling.figures.ticks import label, logarithmic

    label(axis, logarithmic, lambda flops: compute(flops).replace(".0e", "e"))


def loss_ticks(axis: "Axis") -> None:
    """Labels a logarithmic loss axis, whose range is often a fraction of a decade, with plain numbers."""
    from kleiber.scaling.figures.ticks import label, logarithmic

    label(axis, logarithmic, "{:.4g}".format, most=7)


def value_ticks(axis: "Axis", most: int = 5) -> None:
    """Labels a linear axis of values of any size."""
    from kleiber.scaling.figures.ticks import label, linear

    label(axis, linear, lambda value: count(value) if value >= 1e4 else f"{value:.5g}", most)


def signed_ticks(axis: "Axis") -> None:
    """Labels a symmetric-log axis of differences, each with its sign."""
    from kleiber.scaling.figures.ticks import label, signed

    label(axis, signed, lambda value: f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0", most=13)


def level_ticks(axis: "Axis", levels: Sequence[float]) -> None:
    """Labels the levels that were run, every so many of them where they would touch."""
    from kleiber.scaling.figures.ticks import label, thinned

    label(axis, thinned(levels), "{:.3g}".format, most=7)
