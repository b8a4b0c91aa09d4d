"""The simulation twin: noise is what was asked for, seeds repeat, every law can be rehearsed."""

import numpy as np
import pytest

from kleiber.scaling.designing.simulate import rehearse, simulate_table
from kleiber.scaling.fitting.noise import RunNoise
from kleiber.scaling.laws import get_law, registry
from truth.designs import REFERENCE, frontier_point, grid, trunks
from truth.plausible import even_design, reference_constants

MANY = {"num_params_total": np.full(40_000, 1e6), "num_tokens": np.full(40_000, 1e8)}


def test_every_registered_law_makes_a_table_of_positive_losses() -> None:
    for law in registry().values():
        design = even_design(law)
        table = simulate_table(law, reference_constants(law, design), design, RunNoise(0.005), 1)
        assert len(table) == 48 and np.all(np.isfinite(table["loss"])) and np.all(table["loss"] > 0), law.id


def test_equal_seeds_repeat_and_other_seeds_do_not() -> None:
    noise = RunNoise(0.01)
    first, again, other = (simulate_table("chinchilla", REFERENCE, grid(), noise, seed)["loss"] for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_point_and_evaluation_noise_add_in_squares_around_the_law() -> None:
    table = simulate_table("chinchilla", REFERENCE, MANY, RunNoise(0.003, evaluation=0.004), 0)
    clean = 0.8 + 25.1 * 1e6**-0.35 + 100 * 1e8**-0.34
    residual = np.log(table["loss"] / clean)
    # 40,000 draws give a standard deviation to 0.35%; 2% is more than five of its errors.
    assert abs(residual.std() / 0.005 - 1) < 0.02 and abs(residual.mean()) < 5 * 0.005 / 200
    assert table["loss_standard_error"][0] == pytest.approx(0.004 * clean)


def test_points_of_one_trunk_share_one_shift() -> None:
    trunk = np.repeat([f"t{index}" for index in range(4000)], 10)
    table = simulate_table("chinchilla", REFERENCE, {**MANY, "trunk_id": trunk}, RunNoise(0.002, tau=0.01), 0)
    log_loss = np.log(table["loss"]).reshape(4000, 10)
    assert log_loss.std(axis=1, ddof=1).mean() == pytest.approx(0.002, rel=0.05)
    assert log_loss.mean(axis=1).std() == pytest.approx(np.hypot(0.01, 0.002 / 10**0.5), rel=0.05)


def test_changing_one_noise_leaves_the_draws_of_the_others() -> None:
    small, large = (
        simulate_table("chinchilla", REFERENCE, grid(), RunNoise(0.01, tau), 5)["loss"] for tau in (1e-12, 1e-11)
    )
    assert np.allclose(small, large, rtol=1e-9)


def test_a_law_without_a_positive_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        simulate_table("chinchilla", {**REFERENCE, "E": -5.0}, grid(), RunNoise(0.01), 0)
    with pytest.raises(ValueError, match="sigma > 0"):
        RunNoise(0.0)


def test_a_rehearsal_finds_the_planned_error_and_coverage() -> None:
    columns, trunk = trunks()
    found = rehearse(
        "chinchilla", REFERENCE, columns, RunNoise(0.003, 0.005), frontier_point(columns), trunk=trunk, count=60
    )
    assert found.num_failed == 0 and found.coverage["alpha"].rate > 0.85
    assert 0.001 < found.forecast_error < 0.03
    assert set(get_law("chinchilla").names) <= set(found.coverage)
