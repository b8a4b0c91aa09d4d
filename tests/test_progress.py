"""What a sweep shows while it runs: time left that follows what is measured, and workers that step, however slowly."""

import io
import json
import os
import time
from types import SimpleNamespace

import pytest

from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.planning.speed import measured_pace
from kleiber.experiments.sweeping.progress import SweepProgress, time_left
from kleiber.model.config import ModelConfig
from kleiber.train.config import OptimizerConfig, TrainConfig

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


@pytest.fixture
def progress(tmp_path):
    cells = trunk_cells(Experiment("e", "?", (TRUNK,), laws=()), "fit")
    plan = SimpleNamespace(trunk_seconds=lambda cell: 100.0, num_workers=1, target_seconds=400.0)
    return SweepProgress(Experiment("e", "?", (TRUNK,), laws=()), tmp_path, "fit", cells, plan, print)


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


def test_a_terminal_shows_the_phase_with_a_bar_and_the_loss(progress):
    from rich.console import Console

    progress.started -= 10
    say(progress, age=1, trained_tokens=500_000, tokens_per_second=1e5, loss=2.5)
    console = Console(file=io.StringIO(), width=120)
    console.print(progress._drawn(progress.look()))
    shown = console.file.getvalue()
    assert shown.startswith("[fit] \N{BOX DRAWINGS HEAVY HORIZONTAL}") and "50% loss 2.500" in shown


def test_the_time_left_is_that_of_the_whole_sweep_in_a_range_that_closes_as_steps_are_measured(progress):
    progress.started -= 2
    say(progress, age=1, trained_tokens=500_000, tokens_per_second=1e5, loss=2.5)
    state = progress.look()
    fewest, most = progress.seconds_left(state)
    assert fewest < 50 + 400 < most  # half of this run, and the targets, as planned
    progress.started -= 998
    progress.stepping_since = (progress.started + 1, -447.5)  # nearly half a planned second a wall second
    closer, further = progress.seconds_left(state)
    assert closer < 450 * 2 < further and further / closer < most / fewest


def test_at_the_end_the_time_left_is_that_of_the_longest_run_as_other_workers_stand_idle(progress):
    alone = progress.look()
    progress.workers, progress.expected_pace, progress.plan.target_seconds = 4, 1 / 4, 0.0
    progress.planned_seconds = {progress.cells[0].trunk_id: 100.0}
    assert alone.longest_left == 100
    fewest, most = progress.seconds_left(alone)
    assert (fewest * most) ** 0.5 == pytest.approx(100, rel=1e-3)


def test_a_run_slower_than_planned_beside_the_others_is_waited_for_at_its_own_pace(progress):
    progress.started -= 1_000
    progress.plan.target_seconds = 0.0
    trunk = progress.cells[0].trunk_id
    progress.stepping_since = (progress.started, 0.0)  # no seconds of starting
    progress.first_seen[trunk] = (time.time() - 300, 0.2)  # 0.3 of it in 300 s: the other half takes 500 s
    say(progress, age=1, trained_tokens=500_000, tokens_per_second=1e5, loss=2.5)
    fewest, most = progress.seconds_left(progress.look())
    assert (fewest * most) ** 0.5 == pytest.approx(1_000, rel=0.02)  # 50 of 100 planned seconds took 1,000
    progress.stepping_since = (time.time() - 100, 0.0)
    progress.started = time.time() - 100
    say(progress, age=1, trained_tokens=500_000, tokens_per_second=1e5, loss=2.5)
    fewest, most = progress.seconds_left(progress.look())
    assert (fewest * most) ** 0.5 == pytest.approx(500, rel=0.02)


def test_the_pace_measured_before_is_what_the_next_phase_starts_from_and_its_end_takes_what_a_start_took(progress):
    progress.stepping_since, progress.started = (time.time() - 1e6, 0.0), time.time() - 1e6 - 10
    progress.planned_done = 1e5
    after = SweepProgress(
        progress.experiment, progress.directory, "target", progress.cells, progress.plan, print, before=progress
    )
    assert after.expected_pace == pytest.approx(10, rel=1e-3)
    after.stepping_since, after.started = (time.time(), 0.0), time.time() - 7
    fewest, most = after.seconds_left(after.look())
    assert (fewest * most) ** 0.5 == pytest.approx(10 * 100 + 7, rel=0.01)


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
