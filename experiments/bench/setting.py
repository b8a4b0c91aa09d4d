"""How a bench is run: rounds, short or long, where, and who hears of the progress."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


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
