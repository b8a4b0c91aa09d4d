"""A result of the bench for a reader at a terminal."""

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kleiber.experiments.bench.figures import Figure, figure_of_data

BUSY = 0.2
"""Cores that others used during a section, from which its figures are doubtful: threads that wait for one another lose
far more than their share, ours less than PyTorch's, so that even ratios taken in turns flatter us."""


def show_machine(machine: dict[str, Any]) -> None:
    """Prints what the figures depend on."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    flags = " ".join(f"{name}={value}" for name, value in machine["flags_given"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB, "
        f"{machine['accelerator'] or 'no accelerator: CPU part only'}",
        f"Python {machine['python']}, {versions}",
        f"commit {machine['commit']}, {machine['date']}, load {_load(machine['load_average'])}"
        + (f", {flags}" if flags else ""),
    ]
    Console().print("\n".join(lines), highlight=False, markup=False)


def show_section(name: str, says: str, found: dict[str, Any]) -> None:
    """Prints one section as it ends."""
    console = Console()
    took = f"{found['seconds']:.0f} s" if found["seconds"] >= 1 else "under a second"
    others = found["cores_used_by_others"]
    console.print(f"\n[bold]{name}[/]  {says}  [dim]({took})[/]", highlight=False)
    if others > BUSY and figures_of(found):
        console.print(f"  [yellow]others used {others:.1f} cores meanwhile[/]: measure again when it is quiet")
    figures = figures_of(found)
    if figures:
        console.print(_table(figures))
    if found["reason"]:
        console.print(f"  not measured: {found['reason']}", highlight=False, markup=False)
    if not figures and "goals" in found["detail"]:
        console.print(_goal_table(found["detail"]["goals"]))


def figures_of(found: dict[str, Any]) -> list[Figure]:
    """Returns the figures of a section as results keep it."""
    return [figure_of_data(data) for data in found["figures"]]


def _table(figures: list[Figure]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    has_goals = any(figure.goal for figure in figures)
    table.add_column("median of the rounds", overflow="fold")
    for column in ("measured", "low - high", "rounds"):
        table.add_column(column, justify="right", no_wrap=True)
    if has_goals:
        table.add_column("goal", no_wrap=True)
    for figure in figures:
        name = escape(figure.name) + (f"\n[dim]  {escape(figure.note)}[/]" if figure.note else "")
        has_spread = figure.low is not None and figure.high is not None and figure.rounds != 1
        spread = f"{number(figure.low or 0.0)} - {number(figure.high or 0.0)}" if has_spread else ""
        row = [name, f"{number(figure.value)} {unit(figure)}", spread, str(figure.rounds or "")]
        table.add_row(*row, *([_verdict(figure)] if has_goals else []))
    return table


def _goal_table(goals: list[dict[str, Any]]) -> Table:
    """The goals of what could not be measured here."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("goal elsewhere", "solid", "extreme", "how"):
        table.add_column(column, overflow="fold")
    for goal in goals:
        sign = "<=" if goal["is_ceiling"] else ">="
        table.add_row(goal["workload"], f"{sign} {goal['solid']:g} {goal['unit']}", f"{goal['extreme']:g}", goal["how"])
    return table


def _verdict(figure: Figure) -> str:
    """Returns the harder of limit and aim that is met, or the limit that is not."""
    goal = figure.goal
    if goal is None:
        return ""
    sign = "<=" if goal.is_ceiling else ">="
    if not figure.is_met:
        return f"{sign} {number(goal.limit)} [red]not met[/]"
    if goal.is_aim_met(figure.value):
        return f"{sign} {number(goal.aim or 0.0)} [green]aim met[/]"
    return f"{sign} {number(goal.limit)} [green]met[/]"


def unit(figure: Figure) -> str:
    """Returns the unit to print; a ratio is a number of times."""
    return "x" if figure.unit == "ratio" else figure.unit


def number(value: float) -> str:
    """Returns a number in three or four figures, with separators instead of powers of ten."""
    if value and (abs(value) >= 1e15 or abs(value) < 1e-5):
        return f"{value:.3g}"
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.3g} M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def show_summary(result: dict[str, Any]) -> None:
    """Prints how many goals are met, and which are not."""
    met, missed = result["goals_met"], result["goals_missed"]
    if not met and not missed:
        return
    text = f"\n{len(met)} of {len(met) + len(missed)} goals met" + ("; not met:" if missed else ".")
    Console().print(text + "".join(f"\n  {name}" for name in missed), highlight=False, markup=False)


def _load(values: list[float] | None) -> str:
    return f"{values[0]:.1f}" if values else "unknown"
