"""Training curves as their logs grow, and where the runs of a sweep that are under way will end."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kleiber.experiments.directory.record import read_record, record_path
from kleiber.experiments.planning.cells import TrunkCell
from kleiber.scaling.fitting.estimates import t_quantile
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.scaling.forecasting.live import Curve, ExpectedEnd, expected_end
from kleiber.scaling.forecasting.scoreboard import standing
from kleiber.train.watch.metrics import rows_after

TRUNK = "trunk"
"""The part of a log before any cooldown."""


class Curves:
    """Training losses by trunk and segment; of a log only what is new is read."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.places: dict[str, int] = {}
        self.segments: dict[str, dict[str, list[tuple[float, float]]]] = {}

    def read(self, trunk: str) -> dict[str, list[tuple[float, float]]]:
        """Returns (tokens, loss) of each row, by segment; of a log that cannot be read what was read before."""
        segments = self.segments.setdefault(trunk, {})
        with contextlib.suppress(OSError, ValueError):
            rows, self.places[trunk] = rows_after(self.path(trunk), self.places.get(trunk, 0))
            for row in rows:
                loss = row.get("loss")
                if isinstance(loss, int | float) and math.isfinite(loss) and row.get("num_tokens"):
                    segments.setdefault(row["segment"], []).append((row["num_tokens"], loss))
        return segments

    def path(self, trunk: str) -> Path:
        """Returns where the log of a trunk is."""
        return self.directory / "runs" / trunk / "metrics.jsonl"


class ExpectedEnds:
    """Where each run will end, by those of the sweep with the same factors that have ended, and by its forecast."""

    def __init__(self, curves: Curves, cells: Sequence[TrunkCell]):
        self.curves, self.cells = curves, [cell for cell in cells if not cell.shares]
        self.ended: dict[str, list[Curve]] = {}
        """By trunk, of those that are through."""

    def of(self, cell: TrunkCell) -> ExpectedEnd | None:
        """Returns where the longest run of a trunk will end; None while too little is known."""
        if cell.shares or (running := self._curve(cell, max(cell.run_ids))).share <= 0:
            return None
        family = [other for other in self.cells if other.config.factors == cell.config.factors and other != cell]
        for other in family:
            if other.trunk_id not in self.ended and not other.missing(self.curves.directory):
                found = [self._curve(other, num_tokens) for num_tokens in other.run_ids]
                self.ended[other.trunk_id] = [curve for curve in found if curve.final_loss]
        ended = [self.ended[other.trunk_id] for other in family if other.trunk_id in self.ended]
        return expected_end(running, ended, self._forecast(cell))

    def _curve(self, cell: TrunkCell, num_tokens: int) -> Curve:
        """Returns the way to one end of a trunk, before its cooldown."""
        rows = np.array(sorted(self.curves.read(cell.trunk_id).get(TRUNK, [])), float).reshape(-1, 2)
        rows, final = rows[rows[:, 0] <= num_tokens], None
        with contextlib.suppress(OSError, ValueError):
            record = read_record(record_path(self.curves.directory, cell.run_ids[num_tokens]))
            final = record.loss if record.status == "done" else None
        return Curve(rows[:, 0], rows[:, 1], num_tokens, cell.planned[num_tokens].num_params_total, final)

    def _forecast(self, cell: TrunkCell) -> tuple[float, float] | None:
        """Returns the log loss and its standard error that the ledger has of a target."""
        if not cell.target:
            return None
        with contextlib.suppress(OSError, ValueError):
            said = standing(Ledger(self.curves.directory / "ledger.jsonl").entries())[cell.target][0]
            quantile = float(t_quantile(said.get("degrees_of_freedom", math.inf), 0.5 + said["level"] / 2))
            return math.log(said["predicted_loss"]), math.log(said["interval"][1] / said["predicted_loss"]) / quantile
        return None
