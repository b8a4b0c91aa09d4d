"""Fits: exact recovery, published constants, the best optimum, trunks, refusals, and forecasts from JSON alone."""

import itertools
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.minimise import levenberg_marquardt, newton_polish
from kleiber.scaling.fitting.objective import Objective
from kleiber.scaling.fitting.refit import fit_many, simulate_losses
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import make_scaled_law
from kleiber.scaling.fitting.search import residual_function
from kleiber.scaling.fitting.starts import solve_nonnegative
from kleiber.scaling.forecasting.allocation import Demand, allocate
from kleiber.scaling.forecasting.flops_rule import counted_rule, plain_rule
from kleiber.scaling.forecasting.forecast import baseline_losses, combined_forecast
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import from_columns, read_table
from kleiber.scaling.table.warned import SharedTrunkWarning
from truth import recovery
from truth.designs import REFERENCE, SURFACES, grid, isoflop, ladder, optimal_params, surface, trunks

DATABLATIONS = Path(__file__).parent / "data" / "datablations" / "runs.csv"
COLUMNS = {
    "loss": "val_loss",
    "num_params_total": "params",
    "num_tokens": "tokens",
    "num_unique_tokens": "unique_tokens",
}


def noisy_table(columns, sigma=0.01, seed=0, tau=0.0, trunk=None, law="chinchilla", constants=REFERENCE):
    scaled = surface(columns, law)
    losses = simulate_losses(scaled, scaled.working(constants), 1, seed, sigma=sigma, tau=tau, cluster=trunk)
    labels = {} if trunk is None else {"trunk_id": trunk}
    return from_columns({**columns, **labels, "loss": np.exp(losses[0])})


@pytest.fixture(scope="module")
def reference_fit():
    return fit_law(noisy_table(grid()), "chinchilla")


@pytest.mark.parametrize("name", SURFACES)
def test_exact_losses_give_back_the_exact_law(name):
    constants = SURFACES[name]
    columns = isoflop(constants)
    law = get_law("chinchilla")
    fit = fit_law(from_columns({**columns, "loss": law.at(constants, columns)}), law)
    for key, value in constants.items():
        assert fit.parameters[key].estimate == pytest.approx(value, rel=1e-6)
    best = allocate(fit, Demand(1e21))
    assert best.num_params_total == pytest.approx(float(optimal_params(constants, 1e21)), rel=1e-6)
    assert best.num_params_total * best.num_tokens == pytest.approx(1e21 / 6)


def test_published_optima_come_out_to_four_digits():
    check = recovery.t8()
    assert check.passed, check.rows


def test_parabolas_are_biased_as_published_and_the_fit_is_not():
    check = recovery.t7()
    assert check.passed, check.rows


def test_single_pass_rows_of_datablations_give_the_published_optimum():
    table = read_table(DATABLATIONS, COLUMNS, "epochs > 1")
    fit = fit_law(table, "chinchilla", objective="huber", delta=1e-3)
    assert fit.num_points == 41
    assert fit.objective <= 9.4964290e-4 + 5e-12  # the published figure has eight digits
    wanted = {"A": 452.89, "B": 5405.07, "E": 1.91107, "alpha": 0.33901, "beta": 0.38730}
    for name, value in wanted.items():
        assert fit.parameters[name].estimate == pytest.approx(value, rel=1e-3)


def test_published_point_of_datablations_has_the_published_objective():
    table = read_table(DATABLATIONS, COLUMNS, "in_published_fit != 1")
    law = get_law("data_constrained")
    predicted = law.at(law.references[0].constants, table.columns)
    objective = Objective("huber", 1e-3).cost(np.log(predicted) - np.log(table["loss"]))
    assert objective == pytest.approx(0.015825936570763588, rel=5e-7)  # the authors' sum was in 32 bits
    spread = table["loss"] - table["loss"].mean()
    assert 1 - ((predicted - table["loss"]) ** 2).sum() / (spread**2).sum() == pytest.approx(0.7722046, abs=5e-7)


def test_datablations_pair_is_refused_and_the_better_optimum_shown():
    table = read_table(DATABLATIONS, COLUMNS, "in_published_fit != 1")
    published = get_law("data_constrained").references[0].constants
    fixed = {name: published[name] for name in ("E", "A", "B", "alpha", "beta")}
    fit = fit_law(table, "data_constrained", objective="huber", delta=1e-3, fixed=fixed)
    assert fit.objective < 0.015825932
    assert fit.parameters["R_D"].withheld and fit.parameters["R_N"].withheld
    published_like = [each for each in fit.other_optima if abs(each["R_D"] / 15.387756 - 1) < 2e-3]
    assert len(published_like) == 1
    assert published_like[0]["R_N"] == pytest.approx(5.309743, rel=2e-3)
    assert any(alarm.startswith("several-optima") and "R_D 95" in alarm for alarm in fit.identifiability.alarms)


def test_the_authors_own_starts_lead_to_the_optimum_they_published():
    table = read_table(DATABLATIONS, COLUMNS, "in_published_fit != 1")
    law = get_law("data_constrained")
    published = law.references[0].constants
    frozen = {name: published[name] for name in ("E", "A", "B", "alpha", "beta")}
    scaled = make_scaled_law(law, {name: table[name] for name in law.variable_names}, frozen)
    residuals, objective = residual_function(scaled, np.log(table["loss"])), Objective("huber", 1e-3)
    ends = []
    for start in itertools.product(np.linspace(0, 20, 4), repeat=2):  # 0 to 20 in each of R_D and R_N
        z = np.log(np.maximum(start, 1e-3))
        found = levenberg_marquardt(residuals, z[None], scaled.bounds, objective, tolerance=1e-8)
        ends.append(np.exp(newton_polish(residuals, found.z[0], scaled.bounds, objective)[0]))
    wanted = np.array([published["R_D"], published["R_N"]])
    assert np.mean([np.all(np.abs(end / wanted - 1) < 2e-3) for end in ends]) >= 0.5


@pytest.mark.parametrize("seed", range(12))
def test_no_other_start_beats_the_fit(seed):
    assert recovery.reaches_global_optimum(seed)


def test_fit_agrees_with_scipy_least_squares(reference_fit):
    table = noisy_table(grid())

    def cost(p):
        predicted = p[0] + np.exp(p[1]) * (table["num_params_total"] / 1e6) ** -p[3]
        predicted = predicted + np.exp(p[2]) * (table["num_tokens"] / 1e8) ** -p[4]
        return 0.5 * np.sum((np.log(predicted) - np.log(table["loss"])) ** 2)

    found = minimize(
        cost,
        [0.8, -1.6, -1.7, 0.35, 0.34],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 9000},
    )
    assert reference_fit.objective == pytest.approx(found.fun, rel=1e-6)
    assert reference_fit.parameters["alpha"].estimate == pytest.approx(found.x[3], rel=1e-3)


def test_nonnegative_solve_agrees_with_scipy():
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    basis, target = rng.standard_normal((20, 12, 4)), rng.standard_normal((20, 12))
    coefficients, cost = solve_nonnegative(basis, target)
    for index in range(20):
        wanted, norm = nnls(basis[index], target[index])
        np.testing.assert_allclose(coefficients[index], wanted, atol=1e-9)
        assert cost[index] == pytest.approx(norm**2, rel=1e-9)


def test_batched_refits_equal_single_fits():
    columns = grid()
    scaled = surface(columns)
    z = scaled.working(REFERENCE)
    losses = simulate_losses(scaled, z, 5, 3, sigma=0.01)
    refits = fit_many(scaled, losses, z[None])
    for index in range(5):
        fit = fit_law(from_columns({**columns, "loss": np.exp(losses[index])}), "chinchilla")
        np.testing.assert_allclose(fit.z, refits.z[index], atol=1e-6)


def test_covariance_equals_the_textbook_formula_on_shared_trunks():
    columns, trunk = trunks(5, 4)
    fit = fit_law(noisy_table(columns, 0.003, tau=0.005, trunk=trunk), "chinchilla", cluster="trunk_id")
    _, jacobian = fit.scaled.log_loss_and_jacobian(fit.z[None])
    same = trunk[:, None] == trunk[None, :]
    covariance = fit.noise.sigma**2 * np.eye(20) + fit.noise.tau**2 * same
    wanted = np.linalg.inv(jacobian[0].T @ np.linalg.inv(covariance) @ jacobian[0])
    root = fit.uncertainty.root
    np.testing.assert_allclose(root @ root.T, wanted, rtol=1e-6)


def test_exponents_of_a_fixed_ratio_ladder_are_withheld_and_its_forecast_is_not():
    with pytest.warns(UserWarning, match="tokens per parameter"):
        fit = fit_law(noisy_table(ladder(REFERENCE)), "chinchilla")
    assert fit.parameters["alpha"].withheld and fit.parameters["beta"].withheld
    assert fit.to_json()["optimum"]["a"] is None
    assert fit.to_json()["parameters"]["alpha"]["estimate"] is None
    assert any(alarm.startswith("constant-ratio") for alarm in fit.identifiability.alarms)
    found = combined_forecast([fit], 1e9**0.5 * 1e4, 20e9**0.5 * 1e5)
    assert 0 < found.interval[0] < found.predicted_loss < found.interval[1] < 1.5


def test_ignoring_trunks_warns():
    columns, trunk = trunks()
    table = noisy_table(columns, 0.003, tau=0.005, trunk=trunk)
    with pytest.warns(SharedTrunkWarning):
        fit_law(table, "chinchilla")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_law(table, "chinchilla", cluster="trunk_id")


def test_condition_number_is_that_of_a_sound_design(reference_fit):
    assert 1e3 < reference_fit.identifiability.condition < 1e7
    assert not reference_fit.identifiability.alarms


def test_fit_and_forecast_survive_json(reference_fit):
    text = json.dumps(reference_fit.to_json())
    again = FitResult.from_json(text)
    assert json.dumps(again.to_json()) == text
    assert combined_forecast([again], 3e8, 3e10) == combined_forecast([reference_fit], 3e8, 3e10)
    assert again.report() == reference_fit.report()


def test_fit_json_has_the_contracted_keys(reference_fit):
    data = reference_fit.to_json()
    assert {
        "law",
        "parameters",
        "objective",
        "residual_rms",
        "num_points",
        "noise",
        "identifiability",
        "optimum",
    } <= set(data)
    assert {"estimate", "standard_error", "interval_95", "withheld"} <= set(data["parameters"]["alpha"])
    assert {"condition", "alarms"} <= set(data["identifiability"])
    assert data["optimum"]["a"] + data["optimum"]["b"] == pytest.approx(1)


def test_another_process_gives_the_same_bytes():
    code = "from truth.recovery import fit_digest; print(fit_digest())"
    here = Path(__file__).parent  # from where Python finds the package `truth`
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert done.stdout.strip() == recovery.fit_digest()


def test_fitting_loads_no_jax():
    code = "import sys, kleiber.scaling.fitting.fit, kleiber.scaling.forecasting.forecast; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_rejected_form_has_less_to_say_and_a_plausible_one_widens_by_its_distance(reference_fit):
    table = noisy_table(grid())
    alone = combined_forecast([reference_fit], 3e8, 3e10)
    rejected = combined_forecast([reference_fit, fit_law(table, "product")], 3e8, 3e10)
    plausible = combined_forecast([reference_fit, fit_law(table, "generalised_mean")], 3e8, 3e10)
    assert rejected.weights["product"] < 0.2 < 0.4 < plausible.weights["generalised_mean"]
    assert alone.parts["form"] == 0 < plausible.parts["form"]


def test_forecast_variance_adds_its_parts(reference_fit):
    found = combined_forecast([reference_fit], 3e8, 3e10)
    total = sum(found.parts[name] ** 2 for name in ("parameter", "sigma", "tau", "form", "extrapolation"))
    assert found.standard_error == pytest.approx(found.predicted_loss * total**0.5)


def test_a_product_law_has_no_optimum():
    constants = {"E": 0.8, "K": 60.0, "alpha": 0.2, "beta": 0.2}
    fit = fit_law(noisy_table(grid(), law="product", constants=constants), "product")
    with pytest.raises(ValueError, match="no compute-optimal"):
        allocate(fit, Demand(1e21))


def test_another_cost_of_a_token_moves_the_budget(reference_fit):
    six, twelve = allocate(reference_fit, Demand(1e18)), allocate(reference_fit, Demand(2e18, rule=plain_rule(12.0)))
    assert twelve.num_params_total == pytest.approx(six.num_params_total)
    assert twelve.num_tokens == pytest.approx(six.num_tokens)
    assert twelve.num_tokens_interval == pytest.approx(six.num_tokens_interval)
    with pytest.raises(ValueError, match="must be positive"):
        plain_rule(0.0)


def test_a_budget_can_be_spent_as_the_runs_were_counted():
    # FLOPs = 6 N (1 + (1e6 / N)^(1/3)) D: small models are dear. The best N at a budget is found by brute force.
    columns = grid(24, 4)
    params, law = columns["num_params_total"], get_law("chinchilla")
    flops = 6 * params * (1 + (1e6 / params) ** (1 / 3)) * columns["num_tokens"]
    loss = law.at(REFERENCE, columns)
    fit = fit_law(from_columns({**columns, "loss": loss, "flops": flops}), law)
    again = FitResult.from_json(json.dumps(fit.to_json()))
    best = allocate(again, Demand(1e16, rule=counted_rule(again)))
    sizes = np.geomspace(1e5, 1e8, 20001)
    tokens = 1e16 / (6 * sizes * (1 + (1e6 / sizes) ** (1 / 3)))
    wanted = sizes[law.at(REFERENCE, {"num_params_total": sizes, "num_tokens": tokens}).argmin()]
    assert best.num_params_total == pytest.approx(wanted, rel=0.03)  # straight lines between the sizes that were run
    assert best.num_tokens < 0.7 * allocate(fit, Demand(1e16)).num_tokens  # which 6 N D would have promised
    assert counted_rule(again).flops(best.num_params_total, best.num_tokens) == pytest.approx(1e16)
    assert counted_rule(again).text.startswith("counted")
    with pytest.raises(ValueError, match="no column flops"):
        counted_rule(fit_law(from_columns({**columns, "loss": loss}), law))


def test_baselines_are_the_simple_rules():
    columns = grid()
    loss = 5.0 * (columns["num_params_total"] * columns["num_tokens"]) ** -0.05
    fit = fit_law(from_columns({**columns, "loss": loss * np.exp(1e-6 * np.cos(np.arange(40)))}), "chinchilla")
    found = baseline_losses(fit, 1e9, 1e11)
    assert found["product"] == pytest.approx(5 * 1e20**-0.05, rel=1e-4)
    assert found["log_linear"] == pytest.approx(5 * 1e20**-0.05, rel=1e-4)
    assert found["last_point"] == pytest.approx(5 * 1e18**-0.05, rel=1e-4)


def test_a_fixed_constant_stays_and_costs_no_freedom():
    fit = fit_law(noisy_table(grid()), "chinchilla", fixed={"E": 0.8})
    assert fit.parameters["E"].estimate == 0.8 and fit.parameters["E"].fixed
    assert len(fit.z) == 4
    with pytest.raises(ValueError, match="no constant 'F'"):
        fit_law(noisy_table(grid()), "chinchilla", fixed={"F": 1.0})


def test_a_floor_at_zero_is_reported_at_its_bound():
    columns = grid()
    loss = 4.0 * columns["num_params_total"] ** -0.1 + 6.0 * columns["num_tokens"] ** -0.12 - 0.1
    fit = fit_law(from_columns({**columns, "loss": loss}), "chinchilla")
    assert fit.parameters["E"].at_bound
    assert any(alarm.startswith("floor") for alarm in fit.identifiability.alarms)
