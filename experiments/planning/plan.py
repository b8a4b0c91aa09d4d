"""The plan: cells, counts, FLOPs, seconds and the standard errors to expect, before anything is spent."""

import heapq
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kleiber.experiments.compilation.memory import step_memory
from kleiber.experiments.directory.record import RunRecord
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import TrunkCell, all_cells, kept_weights, trunk_cells
from kleiber.experiments.planning.command_problems import command_problems
from kleiber.experiments.planning.data_problems import data_problems, router_warnings, scale_warnings
from kleiber.experiments.planning.expected import expectation
from kleiber.experiments.planning.law_columns import law_problems
from kleiber.experiments.planning.pruning import pruning_problems
from kleiber.experiments.planning.speed import SpeedEstimate, estimate_speed
from kleiber.experiments.planning.start_problems import start_problems
from kleiber.parallel.environment import runs_on_cpu
from kleiber.train.config import TrainConfig
from kleiber.train.levels import plateau

MIN_RATIO_SPREAD = 4.0
"""Largest over smallest tokens per parameter below which a design cannot tell the two exponents apart (laws within a
factor 4 of one ratio have a condition number near 1e11)."""
MIN_STEPS_AFTER_WARMUP = 300
"""Shorter runs measure the start of training more than the law."""


@dataclass(frozen=True)
class Plan:
    """What an experiment would do and cost."""

    experiment: Experiment
    num_workers: int
    fit_cells: list[TrunkCell]
    target_cells: list[TrunkCell]
    speed: SpeedEstimate
    start_cells: list[TrunkCell]
    """Trained first, for others to begin with."""
    expected: dict[str, Any]
    """Standard errors to expect of each law asked for (planning/expected.py)."""
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]

    def check(self) -> None:
        """Raises ValueError when the plan is refused, with every reason."""
        if self.refusals:
            raise ValueError("this plan is refused:\n  - " + "\n  - ".join(self.refusals))

    def trunk_seconds(self, cell: TrunkCell) -> float:
        """Returns the estimated seconds of one trunk on one worker, evaluation included."""
        evaluations = len(cell.config.num_tokens) * cell.config.evaluation.num_tokens / 3  # forward only: a third
        return (cell.trained_tokens + evaluations) / self.speed.tokens_per_second(plateau(cell.config))

    @property
    def speed_source(self) -> str:
        """Where its seconds come from, for people."""
        return self.speed.source([plateau(cell.config) for cell in self.cells])

    @property
    def fit_seconds(self) -> float:
        """Wall seconds of the fitted runs on num_workers workers."""
        return _schedule([self.trunk_seconds(cell) for cell in self.fit_cells], self.num_workers)

    @property
    def start_seconds(self) -> float:
        """Wall seconds of the runs that others begin with on num_workers workers."""
        return _schedule([self.trunk_seconds(cell) for cell in self.start_cells], self.num_workers)

    @property
    def target_seconds(self) -> float:
        """Wall seconds of the targets on num_workers workers."""
        return _schedule([self.trunk_seconds(cell) for cell in self.target_cells], self.num_workers)

    def headline(self) -> str:
        """Returns the plan in one line."""
        points = sum(len(cell.config.num_tokens) for cell in self.fit_cells)
        total = self.start_seconds + self.fit_seconds + self.target_seconds
        first = f"{len(self.start_cells)} to begin with, " if self.start_cells else ""
        return (
            f"{points} points on {len(self.fit_cells)} trunks, {first}{len(self.target_cells)} targets, "
            f"{self.total_flops:.2g} FLOPs, about {total / 60:.1f} min on {self.num_workers} workers "
            f"({self.speed_source})"
        )

    @property
    def total_flops(self) -> float:
        """Counted training FLOPs, shared trunks counted once."""
        return sum(cell.trained_flops for cell in self.cells)

    @property
    def cells(self) -> list[TrunkCell]:
        """All that is trained, in the order of the phases."""
        return self.start_cells + self.fit_cells + self.target_cells

    @cached_property
    def largest_fit_flops(self) -> float:
        """Counted FLOPs of the largest fitted point."""
        return max(point.flops for cell in self.fit_cells for point in cell.planned.values())

    @property
    def memory_bytes(self) -> float:
        """Bytes of a step of the largest cell on one device; 0 where commands train all, of which nobody knows."""
        platform = "cpu" if runs_on_cpu() else "gpu"
        cells = [cell for cell in self.cells if not cell.config.command]
        return max((step_memory(cell.config, platform).total_bytes for cell in cells), default=0.0)

    def points(self) -> list[dict[str, Any]]:
        """Returns the planned record of every point, with its trunk's seconds and compute relative to the fit."""
        rows = []
        for cell in self.cells:
            seconds = self.trunk_seconds(cell)
            for point in cell.planned.values():
                ratio = point.flops / self.largest_fit_flops
                rows.append({**point.to_json(), "compute_ratio": ratio, "trunk_seconds": seconds})
        return rows

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON data: `plan.json` and `kleiber plan --json`."""
        points, kept = self.points(), kept_weights(self.experiment)
        return {
            "experiment": self.experiment.name,
            "question": self.experiment.question,
            "num_points": sum(p["split"] == "fit" for p in points),
            "num_targets": len(self.target_cells),
            "num_workers": self.num_workers,
            "flops": self.total_flops,
            "largest_fit_flops": self.largest_fit_flops,
            "seconds": {
                **({"start": self.start_seconds} if self.start_cells else {}),
                **{"fit": self.fit_seconds, "target": self.target_seconds, "source": self.speed_source},
            },
            "memory_bytes": round(self.memory_bytes),
            "kept_weights": {"splits": list(kept[0]), "bytes": kept[1]},
            "expected": self.expected,
            "refusals": list(self.refusals),
            "warnings": list(self.warnings),
            "points": points,
        }


def make_plan(experiment: Experiment, num_workers: int) -> Plan:
    """Returns the plan of an experiment; starts nothing.

    Raises:
      ValueError: two runs are the same, a law of the experiment is in no registry (with the nearest), or a past ledger
        cannot be learnt from.
    """
    if experiment.laws:
        from kleiber.scaling.laws import get_law  # only a plan with laws needs the room of laws

        for law in experiment.laws:
            get_law(law)
    if experiment.past_ledgers:
        from kleiber.scaling.forecasting.track_record import read_track_record

        read_track_record(experiment.past_ledgers)
    fit_cells, target_cells = trunk_cells(experiment, "fit"), trunk_cells(experiment, "target")
    points = [p for cell in fit_cells for p in cell.planned.values()]
    targets = [p for cell in target_cells for p in cell.planned.values()]
    expected = expectation(experiment, points, targets) if experiment.laws else {}
    configs = [cell.config for cell in fit_cells for _ in cell.planned]
    refusals, warnings = _objections(experiment, points, configs)
    speed = estimate_speed()
    start_cells = [cell for cell in all_cells(experiment) if cell.split == "start"]
    return Plan(experiment, num_workers, fit_cells, target_cells, speed, start_cells, expected, refusals, warnings)


def _objections(
    experiment: Experiment, points: list[RunRecord], configs: list[TrainConfig]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (refusals, warnings) of a design."""
    refusals = [*command_problems(experiment), *data_problems(experiment), *pruning_problems(experiment)]
    warnings = [*router_warnings(experiment), *scale_warnings(experiment)]
    refusals += start_problems(experiment)
    short = [p for p in points if p.num_steps < MIN_STEPS_AFTER_WARMUP]
    if short:
        what = "start-up, not the law" if experiment.laws else "the start of training, not where it leads"
        warnings.append(f"{len(short)} points have fewer than {MIN_STEPS_AFTER_WARMUP} steps: {what}")
    if not experiment.laws:
        return tuple(refusals), tuple(warnings)
    from kleiber.scaling.laws import get_law

    used = {name for law in experiment.laws for name in get_law(law).variable_names}
    ratios = np.array([p.tokens_per_parameter for p in points])
    sizes, lengths = {p.num_params_total for p in points}, {p.num_tokens for p in points}
    spread = ratios.max() / ratios.min()
    if len(sizes) < 3 and "num_params_total" in used:
        refusals.append(f"{len(sizes)} model sizes; the size exponent needs at least 3 (set laws=() to fit nothing)")
    if len(lengths) < 3 and "num_tokens" in used:
        refusals.append(f"{len(lengths)} token counts; the data exponent needs at least 3 (set laws=() to fit nothing)")
    if spread < MIN_RATIO_SPREAD and len(sizes) >= 3 and "num_tokens" in used:
        refusals.append(
            f"tokens per parameter span only {ratios.min():.3g} to {ratios.max():.3g} (a factor {spread:.2g}): along "
            "one ratio, size and data move together, so their exponents cannot be told apart whatever the noise; "
            f"spread the ratios over a factor {MIN_RATIO_SPREAD:.0f} or more at several sizes"
        )
    if len(points) < 7:
        refusals.append(f"{len(points)} points for a law of 5 constants; plan at least 7, better 24")
    if not refusals:
        refusals += law_problems(experiment, points, configs)
    return tuple(refusals), tuple(warnings)


def _schedule(seconds: list[float], num_workers: int) -> float:
    """Returns the wall seconds of independent tasks on num_workers workers, longest first."""
    loads = [0.0] * max(1, num_workers)
    for task in sorted(seconds, reverse=True):
        heapq.heapreplace(loads, loads[0] + task)
    return max(loads)
