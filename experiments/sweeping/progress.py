"""What a sweep shows while it runs: runs done, tokens per second, time left, and the forecast so far."""

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.directory.record import LOST, read_record, record_path
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import TrunkCell, all_cells
from kleiber.experiments.planning.plan import Plan
from kleiber.experiments.planning.speed import TRUSTED_SECONDS, measured_pace
from kleiber.experiments.sweeping.expected import Curves, ExpectedEnds
from kleiber.files import read_json
from kleiber.train.config import TrainConfig
from kleiber.train.levels import plateau

LIVE_SECONDS = 1.0
"""Seconds between looks at the directory on a terminal."""
PLAIN_SECONDS = 5.0
"""Seconds between lines when the output is not a terminal."""

MORE_POINTS = 1.02
"""Growth of the points at which the forecast so far is made again: each time reads and fits all of them, so that of
a sweep with very many points this must not happen at each."""

FRESH_SECONDS = 20.0
"""Age at which the word of a worker that tells every block of steps is that of one that is gone."""

DOUBT = 0.15
"""Part by which the time left is told as a range, either side, however long steps have been measured."""

REASON = 150
"""Characters of why a run failed that are shown while others run; all of it stands below once they are through."""

ENDING_SECONDS = (6.0, 60.0)
"""The least and the most that fit, score and report are taken to need; between them what starting a run takes."""


def time_left(fewest: float, most: float) -> str:
    """Returns a range of seconds for people, in a unit in which it is told by few digits."""
    if most < 5:
        return "a few seconds left"
    size, unit = next((s, u) for s, u in ((3600, "h"), (60, "min"), (1, "s")) if most >= 1.5 * s or s == 1)
    digits = 1 if size > 1 and most < 10 * size else 0
    low, high = f"{fewest / size:.{digits}f}", f"{most / size:.{digits}f}"
    return f"about {low} to {high} {unit} left" if low != high else f"about {low} {unit} left"


def lost_words(lost: Sequence[tuple[str, str]]) -> str:
    """Returns ` | 2 FAILED: why the last did`, for each way to end without a loss that was met."""
    last = {status: reason for status, reason in lost}
    counts = Counter(status for status, _ in lost)
    told = [f"{counts[status]} {status}" for status in last if status == "pruned"]
    told += [f"{counts[s]} {s.upper()}: {reason[:REASON]}" for s, reason in last.items() if s != "pruned"]
    return "".join(f" | {each}" for each in told)


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
    seconds_left: float
    """Wall seconds of steps that are left, summed over the runs, each at the pace of its cost."""
    longest_left: float
    """Those of the run with most of them left; of one at its steps, at its own pace where that is slower."""
    lost: tuple[tuple[str, str], ...] = ()
    """(How, why) of each point that ended without a loss."""


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
        before: "SweepProgress | None" = None,
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
        self.costs = {cell.trunk_id: self._cost(cell) for cell in cells}
        """ln of the planned seconds of a token, by trunk."""
        self.total_points = sum(len(cell.config.num_tokens) for cell in cells)
        self.started = self.looked = time.time()
        self.workers = min(plan.num_workers, len(cells))
        self.plateaus = {cell.trunk_id: plateau(cell.config) for cell in cells}
        self.expected_ends = ExpectedEnds(Curves(directory), all_cells(experiment))
        self.stepping = self.waiting = self.won = 0.0
        """Wall seconds, summed over the workers, at steps; with no run at its steps; planned seconds won by steps."""
        self.begun: set[TrainConfig] = set()
        """Plateaus that are through or have been seen at their steps."""
        self.expected_pace = before.pace_by_cost()(self._cost(max(cells, key=plan.trunk_seconds))) if before else 1.0
        self.stepping_before = before.stepping if before else 0.0
        self.starting_before = before.start_seconds() if before else 0.0
        self.through_before: int | None = None
        """Plateaus that were through at the first look."""
        self.seen: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {}
        """(time, share done) when a run was first and last seen at its steps, by trunk."""
        self.ends: dict[str, tuple[str, str]] = {}
        """(How, why) of each point that has ended, by run id."""
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
            with contextlib.suppress(OSError):  # the terminal has gone; the work has not
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
        done, planned_done, running, left, longest = 0, 0.0, {}, 0.0, 0.0
        lost: list[tuple[str, str]] = []
        now, unfinished, stepped, pace_at = time.time(), set(), [], self.pace_by_cost()
        for cell in self.cells:
            missing, trunk = cell.missing(self.directory), self.plateaus[cell.trunk_id]
            ends = [self._end(name) for n, name in cell.run_ids.items() if n not in missing]
            lost += [end for end in ends if end[0] in LOST]
            done += len(ends)
            planned, share = self.planned_seconds[cell.trunk_id], 1.0
            pace = pace_at(self.costs[cell.trunk_id])
            if missing:
                unfinished.add(trunk)
                progress = self._progress(cell) or {"is_fresh": False}
                share = min(1.0, progress.get("trained_tokens", 0) / cell.trained_tokens)
                if progress["is_fresh"]:
                    loss, speed = progress.get("loss"), progress.get("tokens_per_second", 0.0)
                    told = "" if loss is None else f" loss {loss:.3f}{self._heading(cell)}"
                    name = f"{cell.shape} {len(cell.shares)} levels" if cell.shares else cell.label
                    says = f"{share:.0%}{told}" if told or not cell.config.command else "running"  # it told nothing yet
                    running[trunk] = (f"{name} {says}", speed)
                    if speed:  # its first block of steps, compilation among it, is behind it
                        self.begun.add(trunk)
                        first, last = self.seen.get(cell.trunk_id, ((now, share), (now, share)))
                        self.seen[cell.trunk_id] = (first, (now, share))
                        stepped.append(now - last[0])
                        self.won += (share - last[1]) * planned
                        own = measured_pace(pace, (share - first[1]) * planned, now - first[0])
                        longest = max(longest, (1 - share) * planned * own)
            planned_done += share * planned
            left += (1 - share) * planned * pace
            longest = max(longest, (1 - share) * planned * pace)
        through = set(self.plateaus.values()) - unfinished
        self.begun |= through
        self.through_before = len(through) if self.through_before is None else self.through_before
        at_steps = sum(stepped) * min(1.0, self.workers / max(1, len(stepped)))
        self.stepping += at_steps
        self.waiting += max(0.0, min(len(unfinished), self.workers) * (now - self.looked) - at_steps)
        self.looked = now
        speeds = sum(speed for _, speed in running.values())
        told_all = tuple(told for told, _ in running.values())
        return PhaseState(done - len(lost), planned_done, speeds, told_all, left, longest, tuple(lost))

    def _heading(self, cell: TrunkCell) -> str:
        end = self.expected_ends.of(cell)
        return f" heading for {end.loss:.3f}±{(end.high - end.low) / 2:.3f}" if end else ""

    def _end(self, name: str) -> tuple[str, str]:
        """Returns (how, why) a point has ended, which is read once; a damaged record is told of later."""
        if name not in self.ends:
            self.ends[name] = ("done", "")
            with contextlib.suppress(ValueError, OSError):
                record = read_record(record_path(self.directory, name))
                self.ends[name] = (record.status, record.reason)
        return self.ends[name]

    def pace(self) -> float:
        """Returns the wall seconds a worker at its steps needs for a planned second, as far as it has been measured."""
        return measured_pace(self.expected_pace, self.won / self.workers, self.stepping / self.workers)

    def pace_by_cost(self) -> Callable[[float], float]:
        """Returns the pace of a run as a function of the ln of its planned seconds a token: a power of that, fitted to
        the runs seen at their steps, as a machine may be slower than planned for small ones and faster for large."""
        rows = [
            (self.costs[trunk], last[0] - first[0], (last[1] - first[1]) * self.planned_seconds[trunk])
            for trunk, (first, last) in self.seen.items()
            if last[0] > first[0] and last[1] > first[1]
        ]
        pace = self.pace()
        if len(rows) < 2:
            return lambda cost: pace
        costs, seconds, won = np.array(rows).T
        middle, paces = np.average(costs, weights=seconds), np.log(seconds / won)
        off = costs - middle
        power = float(np.clip((seconds * off * paces).sum() / ((seconds * off**2).sum() + TRUSTED_SECONDS), -1, 1))
        return lambda cost: pace * math.exp(power * (cost - middle))

    def _cost(self, cell: TrunkCell) -> float:
        return math.log(self.plan.trunk_seconds(cell) / cell.trained_tokens)

    def start_seconds(self) -> float:
        """Returns the wall seconds from taking up a run to its steps: a mean, or the last phase's if that was more."""
        starts = max(self.workers, len(self.begun) - (self.through_before or 0))
        return max(self.waiting / starts, self.starting_before)

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
        text = f"{state.done}/{self.total_points} points{lost_words(state.lost)}"
        if state.done + len(state.lost) == self.total_points:
            return text + self._forecast(state.done)
        text += f" | {', '.join(state.running) or self._waiting(state)}"
        text += f" | {state.tokens_per_second / 1e3:.3g}k tokens/s" if state.tokens_per_second else ""
        return text + f" | {time_left(*self.seconds_left(state))}" + self._forecast(state.done)

    def _waiting(self, state: PhaseState) -> str:
        """Returns what is going on before a run tells of its steps: a program of its own compiles nothing here."""
        if all(cell.config.command for cell in self.cells):
            return "next runs starting" if state.done or state.lost else "starting workers and commands"
        return "next runs compiling" if state.done or state.lost else "starting workers, compiling"

    def seconds_left(self, state: PhaseState) -> tuple[float, float]:
        """Returns the fewest and the most wall seconds that this phase and those after it may still take: the closer
        to each other, the longer steps have been measured."""
        start, (least, most) = self.start_seconds(), ENDING_SECONDS
        ending, unbegun = min(max(start, least), most), len(set(self.plateaus.values())) - len(self.begun)
        longest = state.longest_left + (start if unbegun else 0.0)  # at the end workers stand idle
        left = max((state.seconds_left + unbegun * start) / self.workers, longest) + ending
        if self.split == "fit" and self.plan.target_seconds:
            cost = self._cost(max(self.plan.target_cells, key=self.plan.trunk_seconds))
            left += start + self.plan.target_seconds * self.pace_by_cost()(cost) + ending
        measured = (self.stepping_before + self.stepping) / self.workers
        doubt = 1 + DOUBT + TRUSTED_SECONDS / (measured + TRUSTED_SECONDS)
        return left / doubt, left * doubt

    def _progress(self, cell: TrunkCell) -> dict[str, Any] | None:
        """Returns what a worker last said of a trunk, and whether one of this phase is at it: it has said so
        within what its steps and its evaluation may take."""
        path = self.directory / "runs" / cell.trunk_id / "progress.json"
        try:
            progress = read_json(path)
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
