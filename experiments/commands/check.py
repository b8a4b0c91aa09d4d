"""Coordinate check of a parametrisation: does every activation keep its size, and its change, as the model grows?

Trains a family of shapes for a few steps on one small batch and prints the slope of log RMS against log size, for
every activation and its change since initialisation. Exit code 0 if all judged slopes are near zero, 3 if not.

Examples: kleiber check --parametrization mup
          kleiber check --parametrization completep --dial num_layers --json
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE, EXIT_GATE
from kleiber.model.config import Family, Parametrization

if TYPE_CHECKING:
    from kleiber.experiments.audit.coordinate_check import CoordinateCheck

WIDTHS = (128, 256, 512, 1024)
DEPTHS = (2, 4, 8, 16)
WIDTH_OF_DEPTHS = 128


@dataclass(frozen=True)
class Options:
    """What `kleiber check` takes."""

    parametrization: Parametrization = "mup"
    """The rule to check."""
    dial: Literal["d_model", "num_layers"] = "d_model"
    """What grows: the width at two layers, or the depth at width 128."""
    sizes: tuple[int, ...] = ()
    """Values of the dial, increasing, the first is the base; empty means 128 256 512 1024 (of
    a residual_network a quarter of that), or 2 4 8 16 layers."""
    num_steps: int = 10
    """Optimizer steps."""
    num_seeds: int = 3
    """Initial weights, averaged in the logarithm."""
    learning_rate: float = 2**-9
    """At the base shape."""
    tied_head: bool = False
    """Tie the head to the embedding; its first logits then shrink with width, as is known of muP."""
    tolerance: float = 0.05
    """Largest |slope| that passes."""
    family: Family = "decoder"
    """What is built of the layers. Of images 16 pixels are read."""
    json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Runs the check and prints it; returns 0 if it passes, 3 if not."""
    from kleiber.experiments.audit.coordinate_check import check_coordinates, family

    widths = tuple(width // 4 for width in WIDTHS) if options.family == "residual_network" else WIDTHS
    sizes = options.sizes or (widths if options.dial == "d_model" else DEPTHS)
    check = check_coordinates(
        family(options.parametrization, options.dial, sizes, WIDTH_OF_DEPTHS, options.tied_head, options.family),
        options.dial,
        options.learning_rate,
        options.num_steps,
        range(options.num_seeds),
        options.tolerance,
    )
    if options.json:
        worst = {"activation": check.worst.activation, "quantity": check.worst.quantity, "slope": check.worst.slope}
        print(json.dumps(dataclasses.asdict(check) | {"worst": worst, "has_passed": check.has_passed}, indent=1))
    else:
        _print(check)
    return EXIT_DONE if check.has_passed else EXIT_GATE


def _print(check: "CoordinateCheck") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"{check.parametrization}: d log RMS / d log {check.dial}, mean of steps 1 to {check.num_steps}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("activation", no_wrap=True)
    for column in ("slope", "change", *[f"at {size}" for size in check.sizes]):
        table.add_column(column, justify="right", no_wrap=True)
    changes = {slope.activation: slope for slope in check.slopes if slope.quantity == "change"}
    for value in check.slopes:
        if value.quantity == "value":
            change = changes[value.activation]
            slopes = [_coloured(slope.slope, slope.is_judged, check.tolerance) for slope in (value, change)]
            table.add_row(value.activation, *slopes, *[f"{rms:.3g}" for rms in change.rms])
    console = Console()
    console.print(table)
    console.print(f"Right: RMS of the change after the last step, by {check.dial}. Dim slopes are shown, not judged.")
    verdict = "[green]passes[/]" if check.has_passed else "[red]fails[/]"
    worst = check.worst
    console.print(
        f"{check.parametrization} {verdict} over {check.dial} {check.sizes[0]} to {check.sizes[-1]}: largest slope "
        f"{worst.slope:+.3f} ({worst.quantity} of {worst.activation}), at most {check.tolerance} allowed; "
        f"{check.num_seeds} seeds, learning rate {check.learning_rate:g} at the base."
    )


def _coloured(slope: float, is_judged: bool, tolerance: float) -> str:
    colour = "dim" if not is_judged else "green" if abs(slope) <= tolerance else "red"
    return f"[{colour}]{slope:+.3f}[/]"
