"""Measures what this machine gives: matmul peak, tokens per second, compile time, memory, start-up, data, checkpoints,
fits, each beside its peers in the same run and next to its goal.

Without names all sections run, about forty minutes on two cores. Peers in PyTorch need the extra `bench`; without it
they are left out. --out keeps the result as JSON by machine and commit, --figure draws what is kept; these two, and
the sections other than machine, matmul and step, take a checkout of kleiber.
Exit code 3 when a section failed; a goal that is not met is no failure.

Examples: kleiber bench
          kleiber bench matmul step --rounds 7 --out benchmarks
          kleiber bench --figure benchmarks
"""

import difflib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_GATE

if TYPE_CHECKING:
    from kleiber.experiments.bench.sections import Section


@dataclass(frozen=True)
class Options:
    """Options of `kleiber bench`."""

    sections: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SECTION")] = ()
    """machine, matmul, step, sweep, compile, memory, startup, data, checkpoint, fit, guard, seals, growth,
    decode, serve, accelerator."""
    rounds: int = 5
    """Turns of each candidate in a comparison; the figures are medians."""
    short: bool = False
    """Tiny shapes and few rounds: shows in seconds that a section runs. No goal is judged."""
    sweep_scale: float = 0.1
    """Part of the quickstart's tokens that section sweep trains, with a warm compilation cache; 1 is the whole of it
    with an empty one, some twenty minutes a round on two cores. Below 0.1, section serve is as much shorter than ten
    minutes."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""
    out: Path | None = None
    """Keep the result in this folder, as <machine>-<commit>.json."""
    figure: Path | None = None
    """Measure nothing; draw the results kept in this folder into it, one <machine>.svg for each kind of machine."""


def run(options: Options) -> int:
    """Measures and prints; returns 0, or 3 when a section failed."""
    if options.figure is not None:
        return _draw(options.figure)
    from kleiber.experiments.bench import session, show
    from kleiber.experiments.bench.machine import describe_machine
    from kleiber.experiments.bench.setting import find_function

    names, machine = _chosen(options), describe_machine()
    kept: Path | None = None
    keep = find_function("sections.results:keep") if options.out else None
    if not options.json:
        show.show_machine(machine)

    def on_section(section: "Section", so_far: dict[str, Any]) -> None:
        if not options.json:
            show.show_section(section.name, section.says, so_far["sections"][section.name])
        if keep is not None:  # at once: an interrupted bench keeps what it has measured
            nonlocal kept
            kept = keep(options.out, so_far)

    result = session.run_sections(names, options.rounds, options.short, machine, on_section, options.sweep_scale)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        show.show_summary(result)
        if kept is not None:
            print(f"kept as {kept}")
    failed = [found for found in result["sections"].values() if str(found["reason"]).startswith("failed")]
    return EXIT_GATE if failed else EXIT_DONE


def _chosen(options: Options) -> tuple[str, ...]:
    from kleiber.experiments.bench.sections import SECTIONS

    for name in options.sections:
        if name not in SECTIONS:
            near = difflib.get_close_matches(name, SECTIONS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"unknown section '{name}'{hint} Known: {', '.join(SECTIONS)}.")
    if options.rounds < 1:
        raise ValueError(f"--rounds is {options.rounds}, expected at least 1.")
    if options.short and options.out is not None:
        raise ValueError("--short with --out: a short result is not kept, its shapes are tiny; leave one of them out.")
    return options.sections or tuple(SECTIONS)


def _draw(folder: Path) -> int:
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("drawing takes matplotlib: pip install 'kleiber[notebook]'.")
    from kleiber.experiments.bench.setting import find_function

    for path in find_function("sections.drawing:draw_results")(folder):
        print(f"drew {path}")
    return EXIT_DONE
