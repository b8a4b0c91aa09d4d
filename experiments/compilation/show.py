"""A compile report, and a search over meshes, for a reader at a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from kleiber.experiments.compilation.report import CompileReport
from kleiber.experiments.compilation.roofline import Roofline
from kleiber.experiments.compilation.search import Candidate
from kleiber.experiments.compilation.step import OutOfMemory
from kleiber.experiments.compilation.topology import Chip


def show_report(report: CompileReport) -> None:
    """Prints a report."""
    console = Console()
    tokens = report.batch_size * report.seq_len
    params = f"{report.num_params_total / 1e9:,.2f} billion parameters"
    if report.num_params_active != report.num_params_total:
        params += f" ({report.num_params_active / 1e9:,.1f} billion active)"
    console.print(
        f"[bold]{report.preset}[/] on {report.where}: {report.mesh}; {params}; batch {report.batch_size:,} x "
        f"{report.seq_len:,} = {tokens:,} tokens a step; attention: {report.attention_kernel}; the backward pass "
        f"keeps: {report.remat_keeps}",
        highlight=False,
    )
    _show_memory(console, report)
    _show_traffic(console, report)
    console.print(
        f"FLOPs a step and device: {report.product_flops:.4g} in the program's products, {report.executed_flops:.4g} "
        f"predicted, {report.counted_flops / report.num_devices:.4g} counted without recomputation "
        f"({report.counted_flops_causal / report.num_devices:.4g} causal)"
        + (f"; the compiler's analysis, loops once: {report.compiler_flops:.4g}" if report.compiler_flops else "")
        + ".",
        highlight=False,
    )
    if report.roofline is None:
        console.print("No figures are known for this device, so no roofline. ", end="")
    else:
        _show_rooflines(console, report)
    how = (
        "quickly (--full takes the compiler's time, and lets traffic run beside arithmetic) " if report.is_quick else ""
    )
    console.print(f"Lowered in {report.lower_seconds:.1f} s, compiled {how}in {report.compile_seconds:.0f} s.")


def _show_memory(console: Console, report: CompileReport) -> None:
    text = (
        f"memory of a device: {_gb(report.peak_bytes)} = arguments {_gb(report.argument_bytes)} (state "
        f"{_gb(report.state_bytes)}) + temporaries {_gb(report.temporary_bytes)} + program {_gb(report.program_bytes)}"
        f"; predicted {_gb(report.predicted_bytes)}"
    )
    if report.available_bytes is not None:
        left = report.available_bytes - report.peak_bytes
        verdict = f"[green]fits[/], {_gb(left)} left" if left >= 0 else f"[red]does not fit[/], {_gb(-left)} too much"
        text += f"; there {_gb(report.available_bytes)}: {verdict}"
    console.print(text, highlight=False)


def _show_traffic(console: Console, report: CompileReport) -> None:
    if not report.traffic:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title="sent by one device in a step")
    for column in ("axes", "bytes", "predicted", "beside", "seconds"):
        table.add_column(column, justify="left" if column == "axes" else "right", no_wrap=True)
    table.add_column("by")
    for row in report.traffic:
        kinds = ", ".join(f"{kind} {_gb(value)}" for kind, value in sorted(row.bytes_by_kind.items()))
        predicted = "" if row.predicted_bytes is None else _gb(row.predicted_bytes)
        share = f"{row.asynchronous_bytes / max(row.total_bytes, 1):.0%}"
        seconds = "" if row.seconds is None else f"{row.seconds:.3g}"
        table.add_row("+".join(row.axes), _gb(row.total_bytes), predicted, share, seconds, kinds)
    console.print(table)


def _show_rooflines(console: Console, report: CompileReport) -> None:
    assert report.paper and report.roofline and report.utilisation and report.utilisation_causal
    console.print(
        f"on paper:     {report.paper.seconds:.3g} s a step ({_parts(report.paper)})\n"
        f"program:      {report.roofline.seconds:.3g} s a step ({_parts(report.roofline)}); utilisation at best "
        f"[bold]{report.utilisation:.1%}[/] of peak ({report.utilisation_causal:.1%} with the causal half of "
        f"attention); most time goes to {report.roofline.limit}",
        highlight=False,
    )
    if report.estimate_seconds and report.estimate_utilisation:
        console.print(
            f"compiler:     {report.estimate_seconds:.3g} s a step by its own cycles for the arithmetic, "
            f"{report.estimate_utilisation:.1%} of peak",
            highlight=False,
        )
    if report.num_unknown_loops > 1:  # one is the loop over steps
        console.print(f"{report.num_unknown_loops - 1} loops of unknown length were counted as one turn.")


def _parts(roofline: Roofline) -> str:
    parts = [f"compute {roofline.compute_seconds:.3g}", f"HBM {roofline.hbm_seconds:.3g}"]
    parts += [f"{axis} beside {seconds:.3g}" for axis, seconds in roofline.overlapping_seconds.items()]
    parts += [f"{axis} waiting {seconds:.3g}" for axis, seconds in roofline.blocking_seconds.items()]
    return ", ".join(parts)


def show_candidates(found: Sequence[Candidate], chip: Chip, reports: dict[str, CompileReport | OutOfMemory]) -> None:
    """Prints the candidates of a search, best first, with what the compiler said (by name) of those it tried."""
    table = Table(box=None, pad_edge=False, title="meshes, best first by the roofline on paper; memory in GB")
    for column in ("mesh", "memory", "fits", "seconds", "of peak", "compiled", "of peak"):
        table.add_column(column, justify="left" if column == "mesh" else "right", no_wrap=True)
    for item in found:
        said, memory, peak = reports.get(item.name), "", ""
        if isinstance(said, OutOfMemory):
            memory = f"no, {said.needed_bytes / 1e9:.1f}" if said.needed_bytes else "no"
        elif said is not None:
            memory, peak = f"{said.peak_bytes / 1e9:.1f}", f"{said.utilisation:.1%}" if said.utilisation else ""
        row = [item.name, f"{item.memory.total_bytes / 1e9:.1f}", "yes" if item.fits(chip) else "no"]
        row += [f"{item.roofline.seconds:.3g}", f"{item.utilisation:.1%}", memory, peak]
        table.add_row(*row)
    Console().print(table)


def _gb(value: float) -> str:
    if abs(value) < 1e6:
        return f"{value / 1e3:.1f} kB"
    return f"{value / 1e6:.1f} MB" if abs(value) < 1e9 else f"{value / 1e9:.2f} GB"
