"""Prints what an experiment would do, cost and teach; starts nothing.

example: kleiber plan quickstart
"""

import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from kleiber.collector import collector_paused
from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_USAGE

PIPED_WIDTH = 160
"""Columns of a table that goes to a file or another program, so that no number is cut short."""


@dataclass(frozen=True)
class Options:
    """Options of `kleiber plan`."""

    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")]
    """Path of a config file, or the name of a shipped experiment."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Change a field of every trunk and target, such as model.d_model=64, or of the experiment; may be repeated."""
    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Values of a field for every trunk to be run with, such as optimizer.learning_rate=.004,.008; several make their
    product."""
    workers: int | None = None
    """Local worker processes to plan for; default one for each core."""
    json: bool = False
    """Print plan.json instead of a table."""


@collector_paused()
def run(options: Options) -> int:
    """Prints the plan; exit code 2 when the plan is refused."""
    from kleiber.experiments.api.runs import plan as make_plan
    from kleiber.experiments.config_file import changed, load_experiment

    experiment = changed(load_experiment(options.experiment), options.set, options.grid)
    plan = make_plan(experiment, options.workers)
    if options.json:
        print(json.dumps(plan.to_json(), indent=1))
    else:
        _print_table(plan)
    return EXIT_USAGE if plan.refusals else EXIT_DONE


def _print_table(plan) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from kleiber.experiments.planning.cells import IN_NAME
    from kleiber.experiments.planning.varied import level_words
    from kleiber.experiments.report.packages import no_report

    data = plan.to_json()
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    console.print(f"[bold]{plan.experiment.name}[/bold]: {escape(plan.experiment.question)}", highlight=False)
    levels = {cell.trunk_id: dict(cell.levels) for cell in plan.fit_cells}
    varied = [name for name in next(iter(levels.values())) if name not in IN_NAME]
    has_tuning = any("num_params_trained" in p for p in data["points"])
    names = ["trunk", "split", *varied, "parameters", *["moving"] * has_tuning]
    names += ["tokens", "D/N", "FLOPs", "x fit", "seconds"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="left" if name in ("trunk", "split") else "right", no_wrap=True)
    shown: set[str] = set()
    for p in data["points"]:
        row = [p["trunk_id"].rsplit("-", 1)[0], p["target"] or p["split"], f"{p['num_params_total']:,}"]
        own = levels.get(p["trunk_id"], {})
        row[2:2] = [level_words(own[name]) if own else "" for name in varied]
        row += [f"{p.get('num_params_trained', p['num_params_total']):,}"] * has_tuning
        row += [f"{p['num_tokens']:,}", f"{p['tokens_per_parameter']:.3g}", f"{p['flops']:.1e}"]
        row += [f"{p['compute_ratio']:.2f}", "" if p["trunk_id"] in shown else f"{p['trunk_seconds']:.0f}"]
        shown.add(p["trunk_id"])
        table.add_row(*row)
    console.print(table)
    console.print("D/N: tokens per parameter; x fit: FLOPs over the largest fitted run; seconds: of the whole trunk")
    for start in dict.fromkeys(p["start_run"] for p in data["points"] if "start_run" in p):
        is_first = any(p["run_id"] == start for p in data["points"])
        console.print(f"begins with {start}{', trained first' if is_first else ', which is there'}", highlight=False)
    seconds = data["seconds"]
    first = f"{seconds['start']:.0f} s for what others begin with, " if "start" in seconds else ""
    console.print(
        f"\n{data['num_points']} points, {data['num_targets']} targets, {data['flops']:.2e} FLOPs, "
        f"{data['memory_bytes'] / 1e6:.0f} MB a worker, "
        f"{data['kept_weights']['bytes'] / 1e6:.3g} MB of weights kept; about {first}{seconds['fit']:.0f} s to fit and "
        f"{seconds['target']:.0f} s for the targets on {data['num_workers']} workers ({seconds['source']})",
        highlight=False,
    )
    _print_expected(data["expected"], plan.experiment.assumed, console)
    for warning in [*data["warnings"], *filter(None, [no_report(f"out/{plan.experiment.name}")])]:
        console.print(f"[yellow]note:[/yellow] {escape(warning)}", highlight=False)
    for refusal in data["refusals"]:
        console.print(f"[red]refused:[/red] {escape(refusal)}", highlight=False)


def _print_expected(expected, law, console) -> None:
    if not expected:
        return
    console.print(
        f"expected standard errors, if L = {law.E:g} + {law.A:g}/N^{law.alpha:g} + {law.B:g}/D^{law.beta:g} with "
        f"trunk noise {law.trunk_noise:.2%} and point noise {law.point_noise:.2%}:",
        highlight=False,
    )
    for name, found in expected["laws"].items():
        if reason := found.get("reason"):
            console.print(f"  {name}: none, as {reason}", highlight=False)
            continue
        console.print(f"  {name}: {', '.join(f'{c} {e:.3g}' for c, e in found['constants'].items())}", highlight=False)
        for target, error in found["forecasts"].items():
            console.print(f"    forecast of {target}: {error:.2%} (one standard error)", highlight=False)
