"""Runs the acceptance checks in long form and writes docs/truth.md.

python -m truth [--only T2 ...] [--replicates N] [--out docs]
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import scipy

from truth import intervals, misfit, past, past_tables, planning, recovery, speed, tables
from truth.designs import Check

CHECKS: dict[str, Callable[..., Check]] = {
    "T1": recovery.t1,
    "T2": intervals.t2,
    "T3": intervals.t3,
    "T4": intervals.t4,
    "T5": intervals.t5,
    "T6": intervals.t6,
    "misfit": misfit.misfit,
    "past": past.past,
    "past tables": past_tables.past_tables,
    "T7": recovery.t7,
    "T8": recovery.t8,
    "T9": intervals.t9,
    "T10": recovery.t10,
    "T18": recovery.t18,
    "design": planning.design,
    "tables": tables.tables,
    "speed": speed.speed,
}
COUNTED = ("T2", "T3", "T4", "T5", "T6", "misfit", "past", "T9", "T10", "design")
"""Checks that simulate, so that --replicates means something."""
DRAWN = ("T2", "T3", "T4", "T5", "T9")
"""Checks with a part in the figure of all, which is drawn from all of them or not at all."""


def main(argv: list[str] | None = None) -> int:
    """Runs the checks, prints and writes them; returns 0 if all pass, 3 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m truth", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--replicates", type=int, help="simulated sweeps a check; each has its own default")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of truth.md and its figure")
    options = parser.parse_args(argv)
    checks = []
    for name in options.only:
        begin = time.perf_counter()
        arguments = {"count": options.replicates} if options.replicates and name in COUNTED else {}
        check = CHECKS[name](**arguments)
        checks.append(check)
        print(f"{'pass' if check.passed else 'FAIL'} {text(check)}", flush=True)
        print(f"  ({time.perf_counter() - begin:.0f} s)\n", flush=True)
    if set(options.only) == set(CHECKS):
        write(checks, options.out)
    else:
        is_drawn = set(DRAWN) <= set(options.only)
        refresh([check for check in checks if not options.replicates and (is_drawn or not check.rates)], options.out)
    return 0 if all(check.passed for check in checks) else 3


def text(check: Check) -> str:
    """Returns a check for the terminal."""
    lines = [f"{check.id}: {check.claim}"]
    lines += [f"  {what:<52} {measured}   [{required}]" for what, measured, required in check.rows]
    lines += [f"  {check.words}"] * bool(check.words)
    lines += [f"  {cells[0]:<27}" + "".join(f"{cell:>16}" for cell in cells[1:]) for cells in check.board]
    return "\n".join(lines)


def write(checks: list[Check], folder: Path) -> None:
    """Writes truth.md and its figure."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "# What the fitter was held to, and what it did",
        "",
        "Written by `make truth` (`python -m truth`). Every rate is a count over simulated sweeps of a",
        "known surface, fitted by the shipped code; +- is its Monte Carlo standard error. `tables` alone counts real "
        "runs, of other people.",
        f"Python {platform.python_version()}, numpy {numpy.__version__}, scipy {scipy.__version__}, {os.cpu_count()} "
        f"cores shared with {os.getloadavg()[1]:.1f} running programs on average while seconds were taken.",
        "",
        "![coverage](truth.svg)",
        "",
    ]
    for check in checks:
        lines += section(check)
    (folder / "truth.md").write_text("\n".join(lines))
    draw(checks, folder / "truth.svg")


def refresh(checks: list[Check], folder: Path) -> None:
    """Writes anew the sections of some checks, and the figures that they have a part in."""
    page = folder / "truth.md"
    head, *parts = page.read_text().split("\n## ") if page.exists() else [""]
    sections = {part.partition(":")[0]: part for part in parts}
    sections |= {check.id: "\n".join(section(check)).removeprefix("## ") for check in checks}
    if checks:
        page.write_text("\n## ".join([head, *(sections[name] for name in CHECKS if name in sections)]))
    if any(check.rates for check in checks):
        draw(checks, folder / "truth.svg")
    draw_shares(checks, folder)


def section(check: Check) -> list[str]:
    """Returns a check for the page, its wider table and its figure with it."""
    verdict = "pass" if check.passed else "**FAIL**"
    lines = [f"## {check.id}: {check.claim} ({verdict})", "", "| what | measured | required |", "|---|---|---|"]
    lines += [f"| {what} | {measured} | {required} |" for what, measured, required in check.rows] + [""]
    lines += [check.words, ""] * bool(check.words)
    if check.shares:
        lines += [f"![shares inside by distance](truth_{check.id}.svg)", ""]
    if check.board:
        heading, *body = (f"| {' | '.join(cells)} |" for cells in check.board)
        lines += [heading, "|" + "---|" * len(check.board[0]), *body, ""]
    return lines


def draw(checks: list[Check], path: Path) -> None:
    """Writes the figure of every coverage, and of shares by distance, the same bytes for the same checks."""
    import matplotlib

    from truth.drawing import coverage_figure

    with matplotlib.rc_context({"svg.hashsalt": "kleiber"}):
        coverage_figure(checks).savefig(path, metadata={"Date": None})
    draw_shares(checks, path.parent)


def draw_shares(checks: list[Check], folder: Path) -> None:
    """Writes the figures of shares by distance."""
    import matplotlib

    from truth.drawing import distance_figure

    with matplotlib.rc_context({"svg.hashsalt": "kleiber"}):
        for each in checks:
            if each.shares:
                figure = distance_figure(each.shares, tables.DISTANCES, 0.85, 0.95)
                figure.savefig(folder / f"truth_{each.id}.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
