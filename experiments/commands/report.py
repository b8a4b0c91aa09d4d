"""Executes the notebook of a sweep, finished or not, into report.ipynb and one self-contained report.html.

example: kleiber report out/quickstart

one figure: kleiber report out/quickstart --figure hero --out docs/hero.png
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_GATE
from kleiber.experiments.terminal import working

if TYPE_CHECKING:
    from kleiber.experiments.report.build import ReportPaths

FigureName = Literal[
    "hero",
    "curves",
    "slices",
    "surface",
    "frontier",
    "residuals",
    "parameters",
    "truth",
    "levels",
    "differences",
    "time",
    "labels",
]


@dataclass(frozen=True)
class Options:
    """Options of `kleiber report`."""

    directory: tyro.conf.Positional[Path]
    """Directory of a sweep."""
    figure: FigureName | None = None
    """Write this one figure instead of the report."""
    out: Path | None = None
    """PNG file of --figure; default FIGURE.png in the sweep directory."""
    json: bool = False
    """Print one JSON object: report_html, report_ipynb, summary (or figure, claim)."""


def run(options: Options) -> int:
    """Writes the report, or one figure, and prints where."""
    if options.out and not options.figure:
        raise ValueError("--out names the file of one figure; give --figure too, such as --figure hero.")
    try:
        return _figure(options) if options.figure else _report(options)
    except ModuleNotFoundError as missing:
        raise ValueError(f"the report needs {missing.name}: pip install 'kleiber[notebook]'.") from None


def _figure(options: Options) -> int:
    from kleiber.experiments.report.drawing import write_figure

    assert options.figure
    out = options.out or options.directory / f"{options.figure}.png"
    claim = write_figure(options.directory, options.figure, out)
    print(json.dumps({"figure": str(out), "claim": claim}) if options.json else f"{out}: {claim}")
    return EXIT_DONE


def _report(options: Options) -> int:
    from kleiber.experiments.report.build import build_report

    with working("writing the report"):
        paths = build_report(options.directory)
    if options.json:
        data = {"report_html": str(paths.html), "report_ipynb": str(paths.ipynb), "summary": paths.summary}
        print(json.dumps({**data, "problems": list(paths.problems)}, allow_nan=False))
    else:
        _print(paths)
    return EXIT_GATE if paths.problems else EXIT_DONE


def _print(paths: "ReportPaths") -> None:
    from rich.console import Console

    from kleiber.experiments.terminal import printable

    console = Console(highlight=False)
    summary = paths.summary
    console.print(printable(summary["headline"]), style="bold", markup=False)
    for gap in summary["missing"]:
        console.print(f"  missing: {printable(gap)}", markup=False)
    for problem in paths.problems:
        console.print(f"  problem, shown in the report too: {printable(problem)}", style="red", markup=False)
    console.print(f"{paths.html}\n{paths.ipynb}", markup=False, soft_wrap=True)
