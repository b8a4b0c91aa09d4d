"""The state of a sweep in a terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kleiber.experiments.terminal import printable

MOST_ROWS = 14
"""Cells that are listed, by RANKS."""
RANKS = {"running": 0, "failed": 1, "diverged": 1, "paused": 2, "waiting": 3, "done": 4}
STYLES = {"running": "cyan", "done": "green", "failed": "red", "diverged": "red", "paused": "yellow", "waiting": "dim"}


def screen(state: dict[str, Any], address: str = "") -> RenderableType:
    """Returns what a terminal shows of a state.

    Args:
      state: of `Watch.look`.
      address: of the page, if there is one.
    """
    done, planned = state["points"]
    counts = ", ".join(f"{count} {status}" for status, count in state["statuses"].items())
    parts: list[RenderableType] = [
        _text(f"{state['name']}: {state['question']}", "bold"),
        _text(f"{state['directory']}   {state['state']}" + (f"   {address}" if address else ""), "dim"),
        _row(ProgressBar(planned or 1, done, width=24), _text(f"{done}/{planned} points; cells: {counts}")),
        _text(state["result"].get("headline") or state["said"]),
    ]
    for each in state["wrong"]:
        parts += [_text(f"! {each['what']}", "red"), *([_text(f"  -> {each['type']}")] if each["type"] else [])]
    cells = sorted(state["cells"], key=lambda cell: RANKS[cell["status"]])
    table = Table(box=None, pad_edge=False, header_style="dim")
    heading = ("heading for",) if any(cell["expected"] for cell in cells) else ()
    for name in ("cell", "split", "points", "state", "", "loss", *heading, "tokens/s"):
        table.add_column(name, justify="right" if name in ("loss", *heading, "tokens/s") else "left")
    for cell in cells[:MOST_ROWS]:
        loss, speed, end = cell["loss"], cell["tokens_per_second"], cell["expected"]
        table.add_row(
            _text(cell["label"]),
            cell["split"],
            "/".join(map(str, cell["points"])),
            Text(cell["status"], STYLES[cell["status"]]),
            f"{cell['share']:.0%}",
            "" if loss is None else f"{loss:.4f}",
            *(f"{end['loss']:.4f} [{end['low']:.4f}, {end['high']:.4f}]" if end else "" for _ in heading),
            "" if speed is None else f"{speed:,.0f}",
        )
    parts += [table, _text(f"and {len(cells) - MOST_ROWS} more", "dim")] if len(cells) > MOST_ROWS else [table]
    for each in state["forecasts"]:
        observed = "" if each["observed"] is None else f", measured {each['observed']:.4f}"
        interval = f"[{each['low']:.4f}, {each['high']:.4f}]"
        parts.append(_text(f"forecast of {each['target']}: {each['predicted']:.4f} {interval}{observed}"))
    return Group(*parts)


def _row(*parts: RenderableType) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row(*parts)
    return row


def _text(words: str, style: str = "") -> Text:
    return Text(printable(words), style)
