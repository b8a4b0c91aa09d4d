"""What a sweep shows while it runs: time left that follows what is measured, and workers that step, however slowly."""

import io
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.planning.speed import measured_pace
from kleiber.experiments.sweeping import law_stage
from kleiber.experiments.sweeping.progress import SweepProgress, time_left
from kleiber.files import write_json
from kleiber.model.config import ModelConfig
from kleiber.train.command import Command
from kleiber.train.config import OptimizerConfig, ScheduleConfig, TrainConfig

TRUNK = TrainConfig(
    model=ModelConfig(d_model=8, num_layers=1, num_heads=2), optimizer=OptimizerConfig(0.01), num_tokens=(1_000_000,)
)


def test_before_any_step_the_pace_is_the_expected_one():
    assert measured_pace(expected_pace=0.5, planned_won=0, measured_seconds=0) == 0.5
    assert measured_pace(expected_pace=0.5, planned_won=0, measured_seconds=90) == 0.5


@pytest.mark.parametrize("slowness", [10.0, 3.0, 1.0, 1 / 3, 1 / 10])
def test_after_a_minute_of_steps_the_pace_is_within_30_percent_of_the_truth(slowness):
    workers = 2
    won = 60 * workers / slowness
    assert measured_pace(1 / workers, won, 60) == pytest.approx(slowness / workers, rel=0.3)


def test_the_pace_is_the_geometric_mean_of_plan_and_measurement_when_both_count_alike():
    # Five seconds of steps count as much as the plan: 1 wall second a planned one, measured 4.
    assert measured_pace(expected_pace=1, planned_won=1.25, measured_seconds=5) == pytest.approx(2)


def made(folder, trunk):
    cells = trunk_cells(Experiment("e", "?", (trunk,), laws=()), "fit")
    plan = SimpleNamespace(
        trunk_seconds=lambda cell: 100.0, num_workers=1, target_seconds=400.0, target_cells=cells[:1]
    )
    return SweepProgress(Experiment("e", "?", (trunk,), laws=()), folder, "fit", cells, plan, print)


@pytest.fixture
def progress(tmp_path):
    return made(tmp_path, TRUNK)


def say(progress, age, **told):
    path = progress.directory / "runs" / progress.cells[0].trunk_id / "progress.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))
    os.utime(path, (time.time() - age, time.time() - age))


def test_a_worker_is_shown_at_its_steps_from_the_first_one_on_however_slow(progress):
    assert "starting workers, compiling" in progress.line(progress.look())
    progress.started -= 3600
    say(progress, age=1800, trained_tokens=0, tokens_per_second=0.0)  # half an hour in its first steps
    assert "d8-L1-s0 0%" in progress.line(progress.look())
    say(progress, age=300, trained_tokens=40_000, tokens_per_second=100.0, loss=2.5)  # 64 steps take 328 s
    assert "d8-L1-s0 4% loss 2.500" in progress.line(progress.look())
    assert "compiling" not in progress.line(progress.look())


def test_a_worker_of_an_earlier_launch_and_one_that_has_gone_silent_are_not_shown_at_their_steps(progress):
    say(progress, age=5, trained_tokens=40_000, tokens_per_second=1e6)
    assert "compiling" in progress.line(progress.look())
    progress.started -= 3600
    say(progress, age=60, trained_tokens=40_000, tokens_per_second=1e6)
    assert "compiling" in progress.line(progress.look())


def test_a_program_of_the_users_is_told_to_start_not_to_compile(tmp_path):
    progress = made(tmp_path, replace(TRUNK, command=Command("train {num_tokens} {folder}")))
    assert "starting workers and commands" in progress.line(progress.look())
    assert progress._waiting(replace(progress.look(), done=1)) == "next runs starting"


def test_a_terminal_shows_the_phase_with_a_bar_and_the_loss(progress):
    from rich.console import Console

    progress.started -= 10
    say(progress, age=1, trained_tokens=500_000, tokens_per_second=1e5, loss=2.5)
    console = Console(file=io.StringIO(), width=120)
    console.print(progress._drawn(progress.look()))
    shown = console.file.getvalue()
    assert shown.startswith("[fit] \N{BOX DRAWINGS HEAVY HORIZONTAL}") and "50% loss 2.500" in shown


def middle(progress):
    fewest, most = progress.seconds_left(progress.look())
    return (fewest * most) ** 0.5


def told(progress, **said):
    """Lets a worker tell of a block of steps, and the progress look at it."""
    progress.started -= 10
    say(progress, age=1, tokens_per_second=1e5, loss=2.5, **said)
    progress.look()


def ago(progress, seconds):
    """Moves what was seen so far into the past."""
    progress.looked -= seconds
    trunk = progress.cells[0].trunk_id
    progress.seen[trunk] = tuple((time - seconds, share) for time, share in progress.seen[trunk])


def test_the_time_left_is_that_of_the_whole_sweep_in_a_range_that_closes_as_steps_are_measured(progress):
    told(progress, trained_tokens=500_000)
    fewest, most = progress.seconds_left(progress.look())
    assert fewest < 50 + 400 < most  # half of this run, and the targets, as planned
    progress.stepping, progress.won = 1_000.0, 500.0  # half a planned second a wall second
    closer, further = progress.seconds_left(progress.look())
    assert closer < 450 * 2 < further and further / closer < most / fewest


def test_at_the_end_the_time_left_is_that_of_the_longest_run_as_other_workers_stand_idle(progress):
    progress.workers, progress.plan.target_seconds = 4, 0.0
    assert middle(progress) == pytest.approx(100 + 6, rel=1e-3)


def test_a_run_slower_than_planned_beside_the_others_is_waited_for_at_its_own_pace(progress):
    progress.plan.target_seconds = 0.0
    told(progress, trained_tokens=500_000)
    now = time.time()
    progress.seen[progress.cells[0].trunk_id] = ((now - 300, 0.2), (now, 0.5))  # 10 s a planned one
    assert middle(progress) == pytest.approx(50 * 10 ** (300 / 305) + 6, rel=1e-2)
    progress.stepping, progress.won = 1e6, 5e4  # but all together take 20 wall seconds a planned one
    assert middle(progress) == pytest.approx(50 * 20 + 6, rel=1e-2)


def test_starting_is_no_part_of_the_pace_and_is_counted_once_for_each_run_to_come_and_once_for_the_end(progress):
    progress.plan.target_seconds = 0.0
    progress.looked -= 40  # nothing at its steps for 40 s
    told(progress, trained_tokens=250_000)
    ago(progress, 1_000)  # then half of the run in 1,000 s, where the plan has 50
    told(progress, trained_tokens=750_000)
    assert progress.pace() == pytest.approx(20 ** (1_000 / 1_005), rel=1e-3)
    assert middle(progress) == pytest.approx(25 * 20 ** (1 - (5 / 1_005) ** 2) + 40, rel=1e-3)
    other = replace(progress.cells[0], config=replace(TRUNK, seed=1))
    progress.cells.append(other)
    progress.plateaus[other.trunk_id] = other.config
    progress.planned_seconds[other.trunk_id] = 100.0
    progress.costs[other.trunk_id] = progress.costs[progress.cells[0].trunk_id]
    assert middle(progress) == pytest.approx(125 * progress.pace() + 40 + 40, rel=1e-3)


def test_a_target_is_expected_at_the_pace_of_its_cost_a_token(progress):
    # A machine four times slower than planned for tokens of 1e-4 s and as planned for those of 4e-4: pace ~ cost^-1.
    small, large = (replace(progress.cells[0], config=replace(TRUNK, seed=seed)) for seed in (1, 2))
    now = time.time()
    for cell, cost, seconds in ((small, 1e-4, 40_000.0), (large, 4e-4, 10_000.0)):
        progress.costs[cell.trunk_id], progress.planned_seconds[cell.trunk_id] = math.log(cost), 20_000.0
        progress.seen[cell.trunk_id] = ((now - seconds, 0.0), (now, 0.5))
    progress.stepping, progress.won = 50_000.0, 20_000.0
    pace_at = progress.pace_by_cost()
    assert pace_at(math.log(4e-4)) / pace_at(math.log(1e-4)) == pytest.approx(1 / 4, rel=1e-3)
    assert pace_at(math.log(8e-4)) / pace_at(math.log(4e-4)) == pytest.approx(1 / 2, rel=1e-3)


def test_the_pace_measured_before_is_what_the_next_phase_starts_from_as_is_the_time_of_a_start(progress):
    progress.stepping, progress.waiting, progress.won = 1e6, 7.0, 1e5
    after = SweepProgress(
        progress.experiment, progress.directory, "target", progress.cells, progress.plan, print, before=progress
    )
    assert after.expected_pace == pytest.approx(10, rel=1e-3)
    assert middle(after) == pytest.approx(10 * 100 + 7 + 7, rel=1e-3)


@pytest.mark.parametrize(
    ("fewest", "most", "said"),
    [
        (0.0, 0.2, "a few seconds left"),
        (20.0, 40.0, "about 20 to 40 s left"),
        (75.0, 130.0, "about 1.2 to 2.2 min left"),
        (700.0, 1_100.0, "about 12 to 18 min left"),
        (9_000.0, 9_001.0, "about 2.5 h left"),
    ],
)
def test_the_time_left_is_told_in_a_unit_that_shows_it(fewest, most, said):
    assert time_left(fewest, most) == said


def test_a_run_that_failed_is_told_at_once_and_counts_as_no_point_done(tmp_path):
    trunk = replace(TRUNK, num_tokens=(500_000, 1_000_000), schedule=ScheduleConfig())
    shown = made(tmp_path, trunk)
    names = shown.cells[0].run_ids
    for tokens, changes in ((500_000, {"status": "done", "loss": 2.0}), (1_000_000, {"status": "failed"})):
        record = replace(shown.cells[0].planned[tokens], reason="ValueError: no file", **changes)
        path = tmp_path / "runs" / names[tokens] / "record.json"
        path.parent.mkdir(parents=True)
        write_json(path, record.to_json())
    assert shown.line(shown.look()) == "[fit] 1/2 points | 1 FAILED: ValueError: no file"


def test_a_program_that_tells_nothing_is_running_and_one_that_tells_losses_is_where_they_were_measured(tmp_path):
    shown = made(tmp_path, replace(TRUNK, command=Command("{python} nosuch.py {folder}")))
    say(shown, 0.0, trained_tokens=0, tokens_per_second=0.0)
    assert shown.look().running[0].endswith(" running")
    say(shown, 0.0, trained_tokens=250_000, tokens_per_second=10.0, loss=3.0)
    assert shown.look().running[0].endswith(" 25% loss 3.000")


@pytest.mark.parametrize(("low", "shown"), [(1.9, " | forecast so far: larger 2.000±0.100"), (float("nan"), "")])
def test_a_forecast_without_a_width_is_not_shown_yet(monkeypatch, low, shown):
    said = SimpleNamespace(predicted_loss=2.0, interval=(low, 2.1))
    replaced = {
        "trunk_cells": (), "cell_records": [SimpleNamespace(status="done")] * 99, "record_columns": {},
        "read_table": None, "fit_laws": (), "_protection": None, "forecast_targets": {"larger": (None, said)},
    }  # fmt: skip
    for name, value in replaced.items():
        monkeypatch.setattr(law_stage, name, lambda *_, value=value: value)
    assert law_stage.forecast_so_far(None, Path()) == shown
