"""Pieces of HTML for the notebook. Every text that comes from outside passes through `text` and is escaped."""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Markup:
    """HTML that is already safe; everything else is escaped when it is placed in a page."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def text(value: Any) -> str:
    """Returns a value as escaped HTML; Markup stays as it is and None becomes a dash."""
    if isinstance(value, Markup):
        return value.html
    if value is None or value == "":
        return "–"
    return html.escape(str(value), quote=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "") -> Markup:
    """Returns an HTML table; columns whose every cell is a number are set flush right.

    Args:
      headers: one word or two for each column.
      rows: cells, escaped unless Markup.
      kind: a further class for the stylesheet.
    """
    cells = [[text(cell) for cell in row] for row in rows]
    flush = [
        all(_is_number(row[index]) for row in cells) and any(row[index] != "–" for row in cells)
        for index in range(len(headers))
    ]
    sides = [' class="number"' if is_right else "" for is_right in flush]
    head = "".join(f"<th{side}>{text(name)}</th>" for name, side in zip(headers, sides, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{side}>{cell}</td>" for cell, side in zip(row, sides, strict=True)) + "</tr>"
        for row in cells
    )
    return Markup(
        f'<div class="wide"><table class="kleiber {text(kind) if kind else ""}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _is_number(cell: str) -> bool:
    """Returns whether a cell reads as a number, an interval or a percentage."""
    bare = re.sub(r"<[^>]*>|&[a-z]+;", "", cell)
    return bool(re.fullmatch(r"[–\s]*|[\[\s]*[+±\-−]?[\d.,]+(e[+-]?\d+)?[kMBT×%\s,\]\-−+\d.e±\xa0]*", bare))


def tiles(items: Sequence[tuple[str, str, str]]) -> Markup:
    """Returns a row of tiles, each (number, what it is, `good`, `bad` or ``)."""
    body = "".join(
        f'<div class="tile {text(mood) if mood else ""}"><b>{text(number)}</b><span>{text(label)}</span></div>'
        for number, label, mood in items
    )
    return Markup(f'<div class="tiles">{body}</div>')


def callout(sentence: Any, mood: str = "note") -> Markup:
    """Returns a box; mood is `good`, `bad`, `wait` or `note`."""
    return Markup(f'<div class="callout {text(mood)}">{text(sentence)}</div>')


def paragraph(*sentences: Any) -> Markup:
    """Returns a paragraph of the sentences that are not empty."""
    return Markup("<p>" + " ".join(text(s) for s in sentences if s) + "</p>")


def heading(words: Any, level: int = 1) -> Markup:
    """Returns a heading made from data."""
    return Markup(f"<h{level}>{text(words)}</h{level}>")


def bullets(items: Iterable[Any]) -> Markup:
    """Returns a list."""
    return Markup("<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>")


def code(words: Any) -> Markup:
    """Returns a name set in the fixed font: a run id, a file."""
    return Markup(f"<code>{text(words)}</code>") if words else Markup("–")


def badge(is_good: bool | None, yes: str = "yes", no: str = "no", unknown: str = "waiting") -> Markup:
    """Returns a coloured word for a verdict; None is neither."""
    if is_good is None:
        return Markup(f'<span class="badge wait">{text(unknown)}</span>')
    return Markup(f'<span class="badge {"good" if is_good else "bad"}">{text(yes if is_good else no)}</span>')
