"""Runs the tutorials of docs/tutorials as a reader would, from top to bottom in an empty folder.

Command: python tests/tutorial.py [PAGE ...]     (writes what was printed into these pages, or all)

    ```python title="rates.py"     is written to that file, and so is any other block with a title
    ```sh                          is typed into a shell
    ```python                      is a program of its own
    ```text                        is what the block above prints; a line of three dots stands for lines left out
"""

import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HOUSE = Path(__file__).parent.parent
PAGES = tuple(path for path in sorted((HOUSE / "docs" / "tutorials").glob("*.md")) if path.name != "index.md")
BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', flags=re.MULTILINE | re.DOTALL)
LEFT_OUT = "..."
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?(?![\w-])")
SECONDS = re.compile(rf"{NUMBER.pattern} (?=s\b|ms\b|min\b|h\b|tokens/s|workers)")
HASH = re.compile(r"hash [0-9a-f]{12}")
"""Of an entry of a ledger, which holds the time."""
TOLERANCE = re.compile(r"<!-- numbers within (\d+) %")
"""What a page may say of its numbers, 5 % if it does not: losses differ from one kind of processor to another."""

WRITTEN_BY = (3, 11)
"""The Python whose documentation (pydoc_data) is the text of some pages; each version has another."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    """sh, python, text, csv ..."""
    title: str | None
    """The file it is, if it is one."""
    text: str
    start: int
    """Where its text begins in the page."""


class Different(AssertionError):
    """What was printed is not what the page says."""


def blocks_of(page: str) -> list[Block]:
    """Returns the fenced blocks of a page, in order."""
    return [Block(found[1], found[2], found[3], found.start(3)) for found in BLOCK.finditer(page)]


def play(page: str, folder: Path) -> list[tuple[Block, str]]:
    """Returns the blocks that say what is printed, each with what was printed, after running the page in a folder.

    Raises:
      Different: a block ends with another exit code than 0, its output included.
    """
    found, printed = [], ""
    for block in blocks_of(page):
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.kind == "text":
            found.append((block, printed))
        elif block.kind in ("sh", "python"):
            printed = typed(block, folder)
    return found


def typed(block: Block, folder: Path) -> str:
    """Returns what a block prints where it is run."""
    line = ["bash", "-e", "-o", "pipefail", "-c", block.text]
    if block.kind == "python":
        line = [sys.executable, "-c", block.text]
    place = folder / ".bin"
    if not place.exists():
        place.mkdir()
        for name, words in (("python", ""), ("kleiber", "-m kleiber ")):
            (place / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
            (place / name).chmod(0o755)
    ours = {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(HOUSE), "COLUMNS": "100"}
    given = {**os.environ, **ours, "NO_COLOR": "1"}
    done = subprocess.run(line, cwd=folder, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Different(f"exit code {done.returncode} of\n{block.text}\n{done.stdout}")
    return done.stdout.replace(f"{folder}/", "")


def renewed(said: str, printed: str) -> str:
    """Returns what a page says is printed, with the lines that were printed now in place of those that match them.

    Raises:
      Different: a line is missing, or something stands between two lines where the page leaves out nothing.
    """
    if not said.strip():
        return printed.rstrip() + "\n"
    lines, out, here, leaves_out = printed.rstrip().splitlines(), [], 0, False
    for line in said.rstrip().splitlines():
        if line.strip() == LEFT_OUT:
            leaves_out = True
            out.append(line)
            continue
        at = here
        while leaves_out and at < len(lines) and words_of(lines[at]) != words_of(line):
            at += 1
        if at >= len(lines) or words_of(lines[at]) != words_of(line):
            raise Different(f"the page says\n{line}\nand what is printed is\n{printed}")
        out.append(lines[at].rstrip())
        here, leaves_out = at + 1, False
    if here < len(lines) and not leaves_out:
        raise Different(f"the page does not say\n{lines[here]}\nof\n{printed}")
    return "\n".join(out) + "\n"


def tolerance_of(page: str, python: tuple[int, int] = sys.version_info[:2]) -> float:
    """Returns by how much numbers may differ from those of a page, relative: without end where they come from another
    text than the page's, words alone are held then."""
    if "pydoc_data" in page and python != WRITTEN_BY:
        return math.inf
    found = TOLERANCE.search(page)
    return int(found[1]) / 100 if found else 0.05


def words_of(line: str) -> str:
    """Returns a line with # for each number."""
    return " ".join(NUMBER.sub("#", HASH.sub("hash", line)).split())


def check(said: str, printed: str, tolerance: float = 0.05) -> None:
    """Raises Different unless all that a page says is printed, numbers within a relative tolerance, times any. Half of
    an interval comes from what a few seeds differ by, which no two kinds of processor agree on: within a factor of two.
    """
    now = renewed(said, printed)
    is_timed = False
    for old, new in zip(said.rstrip().splitlines(), now.rstrip().splitlines(), strict=True):
        lines = [SECONDS.sub("", HASH.sub("", line)) for line in (old, new)]
        numbers = [[(each[0], line[: each.start()]) for each in NUMBER.finditer(line)] for line in lines]
        is_timed = old.endswith("  seconds") or (is_timed and bool(old))  # their last column
        for (was, before), (became, _) in zip(*(each[: -1 if is_timed else None] for each in numbers), strict=True):
            first, second = (float(each.replace(",", "")) for each in (was, became))
            allowed = max(tolerance, 0.5) if before.endswith(("± ", "varies by ")) else tolerance
            if abs(first - second) > allowed * max(abs(first), abs(second)):
                raise Different(f"{was} has become {became} in\n{new}")


def write(path: Path) -> None:
    """Runs a page and writes what is printed into it."""
    page = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        found = play(page, Path(folder))
    for block, printed in reversed(found):
        page = page[: block.start] + renewed(block.text, printed) + page[block.start + len(block.text) :]
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    for each in map(Path, sys.argv[1:] or PAGES):
        print(each)
        write(each)
