"""What a sweep shows while it runs: runs done, tokens per second, time left, and the forecast so far."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import TrunkCell
from kleiber.experiments.planning.plan import Plan
from kleiber.experiments.planning.speed import seconds_left

LIVE_SECONDS = 1.0
"""Seconds between looks at the directory on a terminal."""
PLAIN_SECONDS = 5.0
"""Seconds between lines when the output is not a terminal."""

MORE_POINTS = 1.02
"""Growth of the points at which the forecast so far is made again: each time reads and fits all of them, so that of
a sweep with very many points this must not happen at each."""

FRESH_SECONDS = 20.0
"""Age at which the word of a worker that tells every block of steps is that of one that is gone."""


@dataclass(frozen=True)
class PhaseState:
    """Where a phase is."""

    done: int
    """Points measured."""
    planned_done: float
    """Seconds on one worker that the plan gave what is done."""
    tokens_per_second: float
    running: tuple[str, ...]
    """What each worker that has begun its steps is at."""


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
        self.started = time.time()
        self.stepping_since: tuple[float, float] | None = None
        """(time, planned seconds done) when the first worker of this phase had begun its steps."""
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
        state = self.look()
        if self.live:
            self.live.update(self._drawn(state))
        else:
            self.say(self.line(state))

    def look(self) -> PhaseState:
        """Reads where the phase is off its directory."""
        done, planned_done, speed, running = 0, 0.0, 0.0, []
        for cell in self.cells:
            missing = cell.missing(self.directory)
            done += len(cell.config.num_tokens) - len(missing)
            if not missing:
                planned_done += self.planned_seconds[cell.trunk_id]
            elif progress := self._progress(cell):
                share = min(1.0, progress.get("trained_tokens", 0) / cell.trained_tokens)
                planned_done += share * self.planned_seconds[cell.trunk_id]
                if progress["is_fresh"]:
                    speed += progress.get("tokens_per_second", 0.0)
                    loss = progress.get("loss")
                    told = "" if loss is None else f" loss {loss:.3f}"
                    running.append(f"{cell.label} {share:.0%}{told}")
        if running and self.stepping_since is None:
            self.stepping_since = (time.time(), planned_done)
        return PhaseState(done, planned_done, speed, tuple(running))

    def line(self, state: PhaseState) -> str:
        """Returns one line: points done, what is running with its loss, speed, time left, forecast so far."""
        return f"[{self.split}] {self._told(state)}"

    def _drawn(self, state: PhaseState) -> Any:
        """Returns the line with a bar, for a terminal; as rich's Text, for it would take `[fit]` for a style."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 1))
        total = sum(self.planned_seconds.values())
        row.add_row(Text(f"[{self.split}]"), ProgressBar(total, state.planned_done, width=24), Text(self._told(state)))
        return row

    def _told(self, state: PhaseState) -> str:
        text = f"{state.done}/{self.total_points} points"
        if state.done == self.total_points:
            return text + self._forecast(state.done)
        waiting = "next runs compiling" if state.done else "starting workers, compiling"
        text += f" | {', '.join(state.running) or waiting}"
        text += f" | {state.tokens_per_second / 1e3:.3g}k tokens/s" if state.tokens_per_second else ""
        left = self._seconds_left(state.planned_done)
        text += f" | about {left / 60:.1f} min left" if left >= 90 else f" | about {left:.0f} s left"
        return text + self._forecast(state.done)

    def _seconds_left(self, planned_done: float) -> float:
        since, done_before = self.stepping_since or (time.time(), planned_done)
        left = sum(self.planned_seconds.values()) - planned_done
        workers = min(self.plan.num_workers, len(self.cells))
        return seconds_left(left, planned_done - done_before, time.time() - since, workers)

    def _progress(self, cell: TrunkCell) -> dict[str, Any] | None:
        """Returns what a worker last said of a trunk, and whether one of this phase is at it: it has said so
        within what its steps and its evaluation may take."""
        path = self.directory / "runs" / cell.trunk_id / "progress.json"
        try:
            progress = json.loads(path.read_text())
            written = path.stat().st_mtime
        except (OSError, ValueError):
            return None
        config, speed = cell.config, progress.get("tokens_per_second", 0.0)
        tokens = 3 * config.steps_per_call * config.tokens_per_step + config.evaluation.num_tokens
        patience = FRESH_SECONDS + tokens / speed if speed else float("inf")  # nobody knows how long first steps take
        return {**progress, "is_fresh": written >= self.started and time.time() - written < patience}

    def _forecast(self, done: int) -> str:
        """Fits what is there whenever some more points have come in; silent until the law can be fitted."""
        if self.split != "fit" or not self.experiment.targets or not self.experiment.laws:
            return ""
        if done > MORE_POINTS * self.last_forecast_points:
            self.last_forecast_points = done
            from kleiber.experiments.sweeping.law_stage import forecast_so_far

            self.forecast_text = forecast_so_far(self.experiment, self.directory)
        return self.forecast_text
