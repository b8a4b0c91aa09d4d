"""Where a run under way will end: told from the runs that have ended, by hand-made curves of one family and of two."""

from dataclasses import replace

import numpy as np
import pytest

from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.sweeping.expected import Curves, ExpectedEnds
from kleiber.experiments.sweeping.trunk_run import write_record
from kleiber.files import checked_line
from kleiber.model.config import ModelConfig
from kleiber.scaling.forecasting.live import Curve, expected_end
from kleiber.train.config import OptimizerConfig, TrainConfig

TOKENS = (1e6, 2e6, 4e6)
SIZES = (1e4, 4e4, 16e4)


def curve(planned, size, until=0.8, noise=0.0, ends_off=0.0, rng=None, is_ended=True):
    """Returns a run whose loss falls as a power, and ends at exp(-.1 - .02 ln N) of its mean over the second half."""
    tokens = planned * np.linspace(0, until, 1 + round(100 * until))[1:]
    loss = 1 + 40 * (tokens * size**0.4) ** -0.25
    made = Curve(tokens, loss, planned, size)
    final = float(np.exp(made.log_loss_at(0.4) - 0.1 - 0.02 * np.log(size) + ends_off)) if is_ended else None
    if noise:
        loss = loss * np.exp(noise * rng.normal(size=len(loss)))
    return Curve(tokens, loss, planned, size, final)


def family(**options):
    return [[curve(planned, size, **options)] for planned in TOKENS for size in SIZES]


def test_a_larger_run_of_the_family_ends_where_its_curve_says():
    running = curve(8e6, 64e4, until=0.4, is_ended=False)
    found = expected_end(running, family())
    assert found.loss == pytest.approx(curve(8e6, 64e4).final_loss, rel=1e-9)
    assert found.share == pytest.approx(0.4) and found.high / found.low == pytest.approx(1)


def test_intervals_hold_as_often_as_they_say():
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        ended = [
            [curve(planned, size, noise=0.02, ends_off=0.005 * rng.normal(), rng=rng)]
            for planned in TOKENS
            for size in SIZES
        ]
        truth = curve(8e6, 64e4, noise=0.02, ends_off=0.005 * rng.normal(), rng=rng)
        running = Curve(truth.num_tokens[:40], truth.loss[:40], truth.planned_tokens, truth.num_params)
        found = expected_end(running, ended, level=0.9)
        held.append(found.low <= truth.final_loss <= found.high)
    assert abs(np.mean(held) - 0.9) < 3 * (0.9 * 0.1 / 400) ** 0.5


@pytest.mark.parametrize(
    "curves",
    [family()[:2], [[curve(1e6, size)] for size in SIZES] * 2, [[curve(each, 1e4)] for each in TOKENS] * 2, []],
    ids=["two runs", "one length", "one size", "none"],
)
def test_nothing_is_said_of_a_run_that_those_that_ended_say_nothing_of(curves):
    assert expected_end(curve(8e6, 64e4, until=0.4, is_ended=False), curves) is None


def test_nothing_is_said_of_the_first_steps():
    assert expected_end(curve(8e6, 64e4, until=0.1, is_ended=False), family()) is None


def test_a_forecast_counts_by_its_precision():
    """A sure one is all that counts, one that knows nothing counts nothing, and any makes the interval narrower."""
    rng = np.random.default_rng(1)
    ended = [[curve(planned, size, ends_off=0.01 * rng.normal())] for planned in TOKENS for size in SIZES]
    running = curve(8e6, 64e4, until=0.4, is_ended=False)
    alone = expected_end(running, ended)
    sure, vague, middling = (expected_end(running, ended, (0.3, error)) for error in (1e-9, 1e9, 0.01))
    assert sure.loss == pytest.approx(np.exp(0.3)) and vague.loss == pytest.approx(alone.loss)
    assert middling.high / middling.low < vague.high / vague.low == pytest.approx(alone.high / alone.low)


def test_runs_of_one_trunk_tell_no_more_than_one_of_them():
    """Three ends of each trunk that are off alike give the interval of one."""
    rng = np.random.default_rng(2)
    offs = {(planned, size): 0.01 * rng.normal() for planned in TOKENS for size in SIZES}
    once = [[curve(planned, size, ends_off=off)] for (planned, size), off in offs.items()]
    running = curve(2e6, 4e4, until=0.4, is_ended=False)
    found, again = (expected_end(running, each) for each in (once, [trunk * 3 for trunk in once]))
    assert (again.low, again.loss, again.high) == pytest.approx((found.low, found.loss, found.high))


def train(width, num_tokens, seed, **fields):
    model = ModelConfig(width, 1, 1)
    return TrainConfig(model, OptimizerConfig(0.01), (num_tokens // 2, num_tokens), seed=seed, **fields)


@pytest.mark.parametrize("kind", ["as this one", "another"])
def test_a_sweep_under_way_says_where_a_run_is_heading_by_those_of_its_factors_alone(tmp_path, kind):
    """Logs and records of six trunks that have ended and one half way; the other kind ends at half the loss."""
    shapes = [(8, 20_480), (8, 40_960), (16, 20_480), (16, 40_960), (24, 40_960), (24, 81_920)]
    trunks = [train(*shape, 1, factors=(("kind", each),)) for each in ("as this one", "another") for shape in shapes]
    running = train(24, 81_920, 2, factors=(("kind", kind),))
    experiment = Experiment("live", "?", (*trunks, running), laws=())
    cells = trunk_cells(experiment, "fit")
    for cell in cells:
        size, longest = next(iter(cell.planned.values())).num_params_total, max(cell.run_ids)
        is_running, kind_of = cell.config == running, dict(cell.config.factors)["kind"]
        folder = tmp_path / "runs" / cell.trunk_id
        folder.mkdir(parents=True)
        for num_tokens, planned in cell.planned.items() if not is_running else ():
            final = curve(num_tokens, size).final_loss * (1.0 if kind_of == "as this one" else 0.5)
            write_record(tmp_path, cell, num_tokens, replace(planned, status="done", loss=final))
        whole = curve(longest, size, until=0.4 if is_running else 0.8)
        rows = [
            {"step": n, "num_tokens": tokens, "loss": loss, "segment": "trunk"}
            for n, (tokens, loss) in enumerate(zip(whole.num_tokens.tolist(), whole.loss.tolist(), strict=True))
        ]
        (folder / "metrics.jsonl").write_text("".join(map(checked_line, rows)))
    (cell,) = [cell for cell in cells if cell.config == running]
    found = ExpectedEnds(Curves(tmp_path), cells).of(cell)
    size, longest = next(iter(cell.planned.values())).num_params_total, max(cell.run_ids)
    expected = curve(longest, size).final_loss * (1.0 if kind == "as this one" else 0.5)
    assert found.loss == pytest.approx(expected, rel=2e-2) and found.share == pytest.approx(0.4)
