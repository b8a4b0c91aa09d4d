"""What a sweep shows while it runs: runs done, tokens per second, time left, and the forecast so far."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import TrunkCell
from kleiber.experiments.planning.plan import Plan

LIVE_SECONDS = 1.0
"""Seconds between looks at the directory on a terminal."""
PLAIN_SECONDS = 5.0
"""Seconds between lines when the output is not a terminal."""

MORE_POINTS = 1.02
"""Growth of the points at which the forecast so far is made again: each time reads and fits all of them, so that of
a sweep with very many points this must not happen at each."""


class SweepProgress:
    """Shows one phase of a sweep; a live line on a terminal, a plain line every few seconds elsewhere."""

    def __init__(
        self,
        experiment: Experiment,
        directory: Path,
        split: str,
        cells: list[TrunkCell],
        plan: Plan,
        say: Callable[[str], None],
        is_quiet: bool = False,
    ):
        self.experiment, self.directory, self.split, self.cells, self.plan, self.say = (
            experiment,
            directory,
            split,
            cells,
            plan,
            say,
        )
        self.is_quiet = is_quiet
        self.planned_seconds = {cell.trunk_id: plan.trunk_seconds(cell) for cell in cells}
        self.total_points = sum(len(cell.config.num_tokens) for cell in cells)
        self.started = time.monotonic()
        self.planned_at_start: float | None = None
        self.last_line = 0.0
        self.last_forecast_points = 0
        self.forecast_text = ""
        self.live: Any = None

    def __enter__(self) -> "SweepProgress":
        if sys.stdout.isatty() and not self.is_quiet:
            from rich.live import Live

            self.live = Live("", refresh_per_second=4)
            self.live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.live:
            self.live.__exit__(*exception)

    def tick(self) -> None:
        """Looks at the directory and shows the state of the phase, when there is something new to show."""
        if time.monotonic() - self.last_line < (LIVE_SECONDS if self.live else PLAIN_SECONDS):
            return
        self.last_line = time.monotonic()
        if self.live:
            self.live.update(self.line())
        else:
            self.say(self.line())

    def line(self) -> str:
        """Returns one line: points done, what is running, speed, time left, forecast so far."""
        done, planned_done, speed, running = 0, 0.0, 0.0, []
        for cell in self.cells:
            missing = cell.missing(self.directory)
            done += len(cell.config.num_tokens) - len(missing)
            if not missing:
                planned_done += self.planned_seconds[cell.trunk_id]
                continue
            progress = self._progress(cell)
            if progress:
                fraction = min(1.0, progress["trained_tokens"] / cell.trained_tokens)
                planned_done += fraction * self.planned_seconds[cell.trunk_id]
                if progress["is_fresh"]:
                    speed += progress["tokens_per_second"]
                    running.append(f"{cell.trunk_id.rsplit('-', 1)[0]} {fraction:.0%}")
        if self.planned_at_start is None:
            self.planned_at_start = planned_done
        left = self._seconds_left(planned_done)
        text = f"[{self.split}] {done}/{self.total_points} points"
        if done == self.total_points:
            return text + self._forecast(done)
        waiting = "next runs compiling" if done else "starting workers, compiling"
        text += f" | {', '.join(running) or waiting}"
        text += f" | {speed / 1e3:.0f}k tokens/s" if speed else ""
        text += f" | about {left / 60:.1f} min left" if left >= 90 else f" | about {left:.0f} s left"
        return text + self._forecast(done)

    def _seconds_left(self, planned_done: float) -> float:
        """Scales the plan's seconds by how fast this phase has really gone so far."""
        total = sum(self.planned_seconds.values())
        elapsed = time.monotonic() - self.started
        won = planned_done - (self.planned_at_start or 0.0)
        workers = max(1, min(self.plan.num_workers, len(self.cells)))
        wall_per_planned = elapsed / won if won > 0.1 * total else 1.0 / workers
        return max(0.0, total - planned_done) * wall_per_planned

    def _progress(self, cell: TrunkCell) -> dict[str, Any] | None:
        path = self.directory / "runs" / cell.trunk_id / "progress.json"
        try:
            progress = json.loads(path.read_text())
            age = time.time() - path.stat().st_mtime
        except (OSError, ValueError):
            return None
        return {**progress, "is_fresh": age < 20}

    def _forecast(self, done: int) -> str:
        """Fits what is there whenever some more points have come in; silent until the law can be fitted."""
        if self.split != "fit" or not self.experiment.targets or not self.experiment.laws:
            return ""
        if done > MORE_POINTS * self.last_forecast_points:
            self.last_forecast_points = done
            from kleiber.experiments.sweeping.law_stage import forecast_so_far

            self.forecast_text = forecast_so_far(self.experiment, self.directory)
        return self.forecast_text
