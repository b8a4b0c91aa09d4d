"""Where the time of a sweep went: the seconds that its workers wrote down, as one bar for each trunk."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kleiber.scaling.figures.style import QUIET, house_style, new_figure, plain, plural, set_claim, value_ticks
from kleiber.train.watch.goodput import KINDS, total_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {
    "steps": "#009E73",
    "compile": "#0072B2",
    "data": "#56B4E9",
    "evaluate": "#CC79A7",
    "save": "#E69F00",
    "other": "#c9ccd2",
    "lost": "#D55E00",
    "waiting": "#efeff2",
}
"""Okabe and Ito's colour-blind-safe set; training in green, what a kill took in vermilion."""
WORDS = {"evaluate": "evaluation", "save": "saving", "other": "starting and the rest", "lost": "lost to kills"}
ORDER = ("steps", "compile", "evaluate", "data", "save", "other", "lost", "waiting")
MAX_BARS = 24


def seconds_by_trunk(directory: Path) -> dict[str, dict[str, float]]:
    """Returns the seconds of each kind for each trunk that wrote any, by its folder's name."""
    paths = sorted(directory.glob("runs/*/goodput.jsonl"))
    return {path.parent.name: total_seconds([path]) for path in paths}


def time_figure(directory: Path, labels: Mapping[str, str]) -> "Figure | None":
    """Returns the figure, or None when nothing was written down.

    Args:
      directory: of the sweep.
      labels: what tells a trunk from the others, by the name of its folder.
    """
    trunks = {name: seconds for name, seconds in seconds_by_trunk(directory).items() if sum(seconds.values()) > 0}
    if not trunks:
        return None
    totals = {kind: sum(seconds[kind] for seconds in trunks.values()) for kind in KINDS}
    busy = sum(totals[kind] for kind in KINDS if kind != "waiting")
    shown = sorted(trunks, key=lambda name: sum(trunks[name][kind] for kind in ORDER))[-MAX_BARS:]
    with house_style():
        figure = new_figure(9.4, 1.6 + 0.24 * len(shown))
        axis = figure.add_subplot()
        left = dict.fromkeys(shown, 0.0)
        for kind in ORDER:
            if totals[kind] <= 0:
                continue
            widths = [trunks[name][kind] for name in shown]
            share = f"{totals[kind] / busy:.1%}" if kind != "waiting" else f"{totals[kind]:,.0f} s"
            label = f"{WORDS.get(kind, kind)} {share}"
            axis.barh(shown, widths, left=list(left.values()), color=COLORS[kind], label=label, height=0.72)
            left = {name: left[name] + width for name, width in zip(shown, widths, strict=True)}
        value_ticks(axis.xaxis, most=8)
        axis.set_xlabel("seconds, over all launches")
        axis.set_yticks(range(len(shown)), [plain(labels.get(name, name.rsplit("-", 1)[0])) for name in shown])
        axis.grid(axis="y", visible=False)
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelcolor="#444444")
        axis.spines["left"].set_color(QUIET)
        hidden = f"; the {len(shown)} longest of {len(trunks)} trunks are drawn" if len(trunks) > len(shown) else ""
        launches = f"{busy:,.0f} worker seconds on {plural(len(trunks), 'trunk')}{hidden}"
        claim = f"{totals['steps'] / busy:.0%} of the workers' time went into training steps"
        set_claim(figure, claim, launches)
    return figure
