"""Designs: expected errors against brute force, costs by hand, and better forecasts than grids of equal cost."""

import numpy as np
import pytest
from scipy import stats

from kleiber.scaling.designing.design import design_problem, design_runs, expected_errors, make_pool
from kleiber.scaling.designing.purchases import (
    Form,
    Problem,
    criterion,
    information,
    informations_with_one_more,
    search_design,
)
from kleiber.scaling.designing.rivals import rivals_from_laws
from kleiber.scaling.designing.simulate import simulate_table
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.known import known_from_fit, known_from_law
from kleiber.scaling.fitting.noise import RunNoise
from kleiber.scaling.forecasting.allocation import Demand, allocate
from truth.designs import REFERENCE, frontier_point, grid, isoflop, ladder, optimal_params, trunks
from truth.planning import (
    LADDER,
    NOISE,
    WIDE,
    design_of_equal_cost,
    plain_grid,
    searched_grid,
    simulated,
)

TARGET = {name: np.array([value]) for name, value in frontier_point(grid()).items()}
SMALL = make_pool(np.geomspace(1e5, 1e7, 5), np.geomspace(1e6, 1e8, 5), 1e15)


def log_loss(z: np.ndarray, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The reference law written out again, in log E, log A, log B, alpha, beta."""
    return np.log(np.exp(z[0]) + np.exp(z[1]) * params ** -z[3] + np.exp(z[2]) * tokens ** -z[4])


def brute_force(columns: dict, covariance: np.ndarray, target: dict) -> tuple[np.ndarray, float]:
    """Standard errors of (E, A, B, alpha, beta) and of the forecast by finite differences and a plain inverse."""
    z = np.array([np.log(0.8), np.log(25.1), np.log(100.0), 0.35, 0.34])
    steps = 1e-5 * np.eye(5)
    points = [(columns["num_params_total"], columns["num_tokens"]), (target["num_params_total"], target["num_tokens"])]
    rows, wanted = (
        np.stack([(log_loss(z + s, *each) - log_loss(z - s, *each)) / 2e-5 for s in steps], 1) for each in points
    )
    covariance_of_z = np.linalg.inv(rows.T @ np.linalg.inv(covariance) @ rows)
    errors = np.sqrt(np.diag(covariance_of_z)) * np.array([0.8, 25.1, 100.0, 1, 1])
    return errors, float(np.sqrt(wanted @ covariance_of_z @ wanted.T)[0, 0])


def test_expected_errors_are_the_inverse_fisher_matrix() -> None:
    columns, trunk = trunks()
    noise = RunNoise(0.003, 0.005)
    found = expected_errors("chinchilla", REFERENCE, columns, noise, targets=TARGET, trunk=trunk)
    covariance = 0.005**2 * (trunk[:, None] == trunk[None, :]) + 0.003**2 * np.eye(len(trunk))
    errors, forecast = brute_force(columns, covariance, TARGET)
    assert np.allclose([found.standard_errors[name] for name in REFERENCE], errors, rtol=1e-4)
    assert found.forecast[0] == pytest.approx(forecast, rel=1e-4)
    assert found.new_run[0] == pytest.approx(np.sqrt(forecast**2 + 0.005**2 + 0.003**2), rel=1e-4)


def test_expected_errors_are_those_tabled_for_forty_runs() -> None:
    # Design notes, section 5: at 1% noise se alpha .010-.013, beta .009-.010, a .008-.011, E about .021.
    found = expected_errors("chinchilla", REFERENCE, isoflop(REFERENCE, flops=(1e12, 1e16)), RunNoise(0.01))
    fit = fit_law(simulate_table("chinchilla", REFERENCE, grid(), RunNoise(0.01), 1), "chinchilla")
    again = expected_errors("chinchilla", REFERENCE, grid(), RunNoise(0.01))
    assert found.a is not None and 0.001 < found.a < 0.05
    for name in ("alpha", "beta", "E"):
        assert fit.parameters[name].standard_error == pytest.approx(again.standard_errors[name], rel=0.5)


def test_a_fixed_ratio_ladder_says_nothing_of_exponents_but_still_forecasts() -> None:
    found = expected_errors("chinchilla", REFERENCE, ladder(REFERENCE), RunNoise(0.01), targets=TARGET)
    assert found.condition > 1e8 and found.standard_errors["alpha"] > 1.0
    one = {"num_params_total": np.full(9, 1e6), "num_tokens": np.full(9, 1e8)}
    nothing = expected_errors("chinchilla", REFERENCE, one, RunNoise(0.01), targets=TARGET)
    assert nothing.is_singular and np.isinf(nothing.forecast[0])


def test_cooldown_branches_pay_for_the_stable_part_once() -> None:
    pool = make_pool(np.array([1e6]), np.array([1e7, 2e7, 4e7]), 1e18, num_trunks=2)
    problem = design_problem(known_from_law("chinchilla", REFERENCE, NOISE, grid()), pool, TARGET)
    # One trunk: 0.2 of every run and 0.8 of the longest, in units of 6e13 FLOPs (10 million tokens).
    assert problem.cost([0, 2]) == pytest.approx(6e13 * (0.2 * 1 + 0.2 * 4 + 0.8 * 4))
    assert problem.cost([0, 5]) == pytest.approx(6e13 * (1 + 4))
    added = problem.added_cost([2])
    assert added[0] == pytest.approx(6e13 * 0.2) and added[3] == pytest.approx(6e13) and np.isinf(added[2])


def test_information_of_one_more_run_is_information_with_it() -> None:
    noise = RunNoise(0.003, 0.005)
    pool = make_pool(np.geomspace(1e5, 1e7, 4), np.geomspace(1e6, 1e8, 4), 1e18, num_trunks=2)
    known = known_from_law("chinchilla", REFERENCE, noise, pool.columns)
    problem = design_problem(known, pool, TARGET, rivals_from_laws(known, ["product"], pool.columns))
    chosen = [0, 3, 7, 17]
    quick = informations_with_one_more(problem, chosen)
    for candidate in (1, 12, 20):
        slow = information(problem, [*chosen, candidate])
        assert all(np.allclose(a[candidate], b, rtol=1e-9) for a, b in zip(quick, slow, strict=True))
    # And the criterion without rivals is the variance that expected_errors finds.
    plain = design_problem(known, pool, TARGET)
    picks = [0, 3, 12, 15, 5, 10]
    trunk = np.array([f"{pool.trunk[index]}" for index in picks])
    columns = {name: values[picks] for name, values in pool.columns.items()}
    found = expected_errors("chinchilla", REFERENCE, columns, noise, targets=TARGET, trunk=trunk)
    value = criterion(plain, [each[None] for each in information(plain, picks)], 1e6)[0]
    assert np.sqrt(value) == pytest.approx(found.forecast[0], rel=1e-3)


@pytest.fixture(scope="module")
def contest() -> dict:
    grid_wide = plain_grid(WIDE)
    return {"grid": grid_wide, "design": design_of_equal_cost(WIDE, grid_wide)}


def test_a_design_beats_the_plain_grid_of_equal_cost_by_thirty_percent(contest: dict) -> None:
    before, after = contest["grid"].expected, contest["design"].expected
    assert before.forecast[0] == pytest.approx(0.0061, abs=1e-4)  # design notes, section 5: 0.61%
    assert contest["design"].flops <= contest["grid"].flops * (1 + 1e-9)
    assert len(contest["design"]) == len(contest["grid"].columns["num_tokens"]) == 48
    assert after.forecast[0] <= 0.7 * before.forecast[0]


def test_the_gain_over_the_grid_is_seen_in_simulated_sweeps(contest: dict) -> None:
    # 150 sweeps a side: each error is known to 6%, so 0.65 expected cannot be 0.85 measured by chance.
    before, after = (simulated(WIDE, dict(contest[name].columns), 150).forecast_error for name in ("grid", "design"))
    assert before == pytest.approx(contest["grid"].expected.forecast[0], rel=0.2)
    assert after < 0.85 * before


def test_a_design_beats_the_best_grid_where_the_budget_affords_a_corner() -> None:
    best = searched_grid(LADDER)
    assert design_of_equal_cost(LADDER, best).expected.forecast[0] <= 0.7 * best.expected.forecast[0]


def test_runs_already_there_count() -> None:
    fit = fit_law(
        simulate_table("chinchilla", REFERENCE, isoflop(REFERENCE, flops=(1e12, 1e14)), NOISE, 2), "chinchilla"
    )
    known = known_from_fit(fit)
    bought = design_runs(known, SMALL, TARGET, 1e15, max_runs=6)
    assert bought.before is not None and bought.expected.forecast[0] < bought.before.forecast[0]
    alone = expected_errors("chinchilla", REFERENCE, bought.columns, known.noise, targets=TARGET)
    assert bought.expected.forecast[0] < alone.forecast[0]


def test_a_design_that_knows_of_shared_noise_does_better_under_it() -> None:
    pool = make_pool(np.geomspace(1e5, 1e7, 6), np.geomspace(1e6, 1e8, 6), 1e15, num_trunks=3)
    true, naive = RunNoise(0.001, 0.005), RunNoise(float(np.hypot(0.001, 0.005)))
    errors = []
    for noise in (true, naive):
        known = known_from_law("chinchilla", REFERENCE, noise, pool.columns)
        bought = design_runs(known, pool, TARGET, 5e15, max_runs=16)
        under = expected_errors("chinchilla", REFERENCE, bought.columns, true, targets=TARGET, trunk=bought.trunk)
        errors.append(under.forecast[0])
    assert errors[0] < 0.97 * errors[1]


def test_purchases_stop_when_the_forecast_is_good_enough() -> None:
    known = known_from_law("chinchilla", REFERENCE, NOISE, SMALL.columns)
    whole = design_runs(known, SMALL, TARGET, 1e16, max_runs=40)
    part = design_runs(known, SMALL, TARGET, 1e16, max_runs=40, stop_at=0.02)
    assert len(part) < len(whole) and part.expected.forecast[0] <= 0.02 * 1.01
    assert part.path[-1] <= 0.02 < part.path[-2]


def test_a_rival_form_draws_runs_that_reject_it() -> None:
    # One constant, seen alike by every run, so that without the rival any choice is as good; the rival
    # differs by 1.0 at the target, by 0.5 at the second candidate and not at all at the first.
    main = Form(np.ones((2, 1)), np.ones((1, 1)), np.zeros((1, 1)))
    rival = Form(np.array([[1.0, 0.0], [1.0, 0.5]]), np.array([[1.0, 1.0]]), np.zeros((2, 2)))
    problem = Problem(np.ones(2), (main, rival), point_variance=0.04)
    for first, second in ((8, 0), (6, 2), (4, 4)):
        chosen = [0] * first + [1] * second
        value = criterion(problem, [each[None] for each in information(problem, chosen)], 1e6)[0]
        # By hand: the rival's constant moves by the share of second runs, and what is left of the difference gives
        # a log likelihood lower by half of 0.25 n0 n1 / (n0 + n1) / 0.04.
        gap = 0.25 * first * second / 8 / 0.04
        weight = np.exp(-gap / 2)
        distance = 1.0 - 0.5 * second / 8
        assert value == pytest.approx(0.04 / 8 + weight / (1 + weight) * distance**2, rel=1e-6)
    bought = search_design(problem, 8.0, 8)[0]
    assert {0, 1} == set(bought)


def test_no_cell_is_bought_more_often_than_allowed() -> None:
    known = known_from_law("chinchilla", REFERENCE, NOISE, SMALL.columns)
    bought = design_runs(known, SMALL, TARGET, 1e16, max_runs=30, max_repeats=2)
    cells = list(zip(bought.columns["num_params_total"], bought.columns["num_tokens"], strict=True))
    assert max(cells.count(cell) for cell in cells) == 2
    with pytest.raises(ValueError, match="cheapest candidate"):
        design_runs(known, SMALL, TARGET, 1.0)


def test_the_compute_optimal_allocation_is_the_closed_form() -> None:
    known = known_from_law("chinchilla", REFERENCE, NOISE, grid())
    best = allocate(known, Demand(flops=1e18))
    assert best.num_params_total == pytest.approx(float(optimal_params(REFERENCE, 1e18)), rel=1e-5)
    assert best.num_params_interval is None
    cheapest = allocate(known, Demand(loss=best.predicted_loss))
    assert cheapest.training_flops == pytest.approx(1e18, rel=1e-6)
    with pytest.raises(ValueError, match="no size reaches"):
        allocate(known, Demand(loss=0.7))


def test_allocation_intervals_are_those_of_the_closed_form() -> None:
    fit = fit_law(simulate_table("chinchilla", REFERENCE, isoflop(REFERENCE), NOISE, 3), "chinchilla")

    def log_best(z: np.ndarray) -> float:
        p = {name: float(value) for name, value in fit.scaled.reported(z).items()}
        return float(np.log(optimal_params(p, 1e20)))

    gradient = np.array([(log_best(fit.z + step) - log_best(fit.z - step)) / 2e-5 for step in 1e-5 * np.eye(5)])
    variance, degrees = fit.uncertainty.degrees(gradient)
    ends = np.exp(log_best(fit.z) + np.array([-1, 1]) * stats.t.ppf(0.95, degrees) * variance**0.5)
    found = allocate(fit, Demand(flops=1e20), level=0.9)
    assert found.num_params_interval == pytest.approx(ends, rel=1e-5)
    assert found.num_tokens_interval == pytest.approx(1e20 / 6 / ends[::-1], rel=1e-5)


def test_inference_to_come_asks_for_a_smaller_model_and_lower_total_cost() -> None:
    known = known_from_law("chinchilla", REFERENCE, NOISE, grid())
    alone = allocate(known, Demand(loss=1.0))
    served = allocate(known, Demand(loss=1.0, inference_tokens=1e13))
    assert served.num_params_total < alone.num_params_total and served.num_tokens > alone.num_tokens
    whole = served.training_flops + served.inference_flops
    assert whole < alone.training_flops + 2 * alone.num_params_total * 1e13
    # Moving off the optimum at the same loss costs more: L = 1.0 with 10% more parameters.
    for factor in (0.9, 1.1):
        params = served.num_params_total * factor
        tokens = (100.0 / (1.0 - 0.8 - 25.1 * params**-0.35)) ** (1 / 0.34)
        assert 6 * params * tokens + 2 * params * 1e13 > whole


def test_a_budget_that_pays_for_inference_too_is_spent_to_the_last() -> None:
    known = known_from_law("chinchilla", REFERENCE, NOISE, grid())
    best = allocate(known, Demand(flops=1e20, inference_tokens=1e13))
    assert best.training_flops + best.inference_flops == pytest.approx(1e20)
    assert best.inference_flops == pytest.approx(2 * best.num_params_total * 1e13)
    for factor in (0.9, 1.1):
        params = best.num_params_total * factor
        tokens = (1e20 - 2 * params * 1e13) / 6 / params
        assert 0.8 + 25.1 * params**-0.35 + 100 * tokens**-0.34 > best.predicted_loss


def test_little_data_is_repeated_and_the_model_kept_smaller() -> None:
    law = "data_constrained"
    constants = {**REFERENCE, "R_D": 15.4, "R_N": 5.3}
    columns = {**grid(), "num_unique_tokens": grid()["num_tokens"]}
    known = known_from_law(law, constants, NOISE, columns)
    rich, poor = (allocate(known, Demand(flops=1e18, num_unique_tokens=unique)) for unique in (1e13, 1e9))
    assert rich.epochs == 1.0 and rich.num_params_total == pytest.approx(
        float(optimal_params(REFERENCE, 1e18)), rel=1e-3
    )
    assert poor.epochs > 1.5 and poor.predicted_loss > rich.predicted_loss
    with pytest.raises(ValueError, match="does not know repeated data"):
        allocate(known_from_law("chinchilla", REFERENCE, NOISE, grid()), Demand(flops=1e18, num_unique_tokens=1e9))
