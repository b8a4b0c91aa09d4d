"""Reads off sweeps how the best learning rate follows batch, tokens, width and layers, and writes it as a recipe.

example: kleiber tune out/lr_batch out/lr_tokens --to recipe.json

Each sweep varies the learning rate at three levels or more beside what it may follow. An experiment then takes the
numbers in force from the file: Recipe.read("recipe.json")(TrainConfig(...)).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE


@dataclass(frozen=True)
class Options:
    """Options of `kleiber tune`."""

    directories: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of sweeps, finished or not."""
    quantity: Literal["learning_rate", "weight_decay", "epsilon", "beta2"] = "learning_rate"
    """What was tuned."""
    to: Path | None = None
    """Write the recipe here, as JSON."""
    json: bool = False
    """Print one JSON object: powers (quantity, cause, exponent, interval, ends, num_pairs) and, by place, recipe, best
    and regret."""


def run(options: Options) -> int:
    """Prints the exponents, and what the recipe loses at each place that was measured."""
    from kleiber.experiments.api.tuning import tune
    from kleiber.experiments.terminal import printable

    found = tune(*options.directories, quantity=options.quantity)
    print(json.dumps(found.to_json(), indent=1) if options.json else printable(str(found)))
    if options.to:
        found.recipe.write(options.to)
    return EXIT_DONE
