"""How a bench is run: rounds, short or long, where, and who hears of the progress."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parents[2]
"""The checkout, or where kleiber is installed."""


class Unavailable(ValueError):
    """Something cannot be measured or kept here; the message says why and what would help."""


def find_function(name: str) -> Callable[..., Any]:
    """Returns the function of MODULE:FUNCTION. A module without a dot is one of kleiber.experiments.bench; `sections.`
    are those of a checkout, in benchmarks/. Raises Unavailable for the latter in an installation, which does not bring
    them."""
    module, function = name.split(":")
    if "." not in module:
        return getattr(importlib.import_module(f"{__package__}.{module}"), function)
    if not (HOUSE / "benchmarks" / "sections").is_dir():
        raise Unavailable("this part of the bench is not in an installation; run it in a checkout of kleiber.")
    for folder in ("benchmarks", "tests"):  # the latter for the failure tests and the fits that sections time
        if str(HOUSE / folder) not in sys.path:
            sys.path.append(str(HOUSE / folder))
    return getattr(importlib.import_module(module), function)


@dataclass(frozen=True)
class Setting:
    """What every section of the bench is given."""

    rounds: int
    is_short: bool
    """Tiny shapes and the fewest rounds: shows that everything runs; its figures mean little and meet no goal."""
    folder: Path
    """Temporary, this bench's own."""
    tell: Callable[[str], None]
    """Takes a line of progress."""
    sweep_scale: float = 0.1
    """Part of the quickstart's tokens that section sweep trains."""

    def each_round(self, what: str, rounds: int | None = None) -> Callable[[int], None]:
        """Returns what tells of every round done, for kleiber.experiments.bench.interleave.interleaved."""
        return lambda done: self.tell(f"{what}: round {done} of {rounds or self.rounds}")

    def place(self, name: str) -> Path:
        """Returns a new folder."""
        path = self.folder / f"{name}-{len(list(self.folder.glob(name + '-*')))}"
        path.mkdir(parents=True)
        return path
