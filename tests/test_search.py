"""The search for the minimum: thousands of starts find what a few find, and starts that meet go on as one."""

from pathlib import Path

import numpy as np
import pytest

from kleiber.scaling.designing.simulate import simulate_table
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.minimise import levenberg_marquardt
from kleiber.scaling.fitting.noise import RunNoise
from kleiber.scaling.fitting.objective import Objective
from kleiber.scaling.fitting.scaled_law import ScaledLaw, make_scaled_law
from kleiber.scaling.fitting.search import follow, residual_function
from kleiber.scaling.fitting.starts import start_candidates, start_points
from kleiber.scaling.laws import get_law, registry
from kleiber.scaling.table.table import read_table
from truth import speed
from truth.plausible import even_design, reference_constants

RUNS = Path(__file__).parent / "data" / "datablations" / "runs.csv"
NAMES = {"loss": "val_loss", "num_params_total": "params", "num_tokens": "tokens"}


@pytest.mark.parametrize(("objective", "delta"), [("gaussian", None), ("huber", 1e-3)])
def test_thousands_of_starts_find_the_optimum_of_a_few(objective, delta):
    table = read_table(RUNS, NAMES, "epochs > 1")
    few = fit_law(table, "chinchilla", objective=objective, delta=delta)
    many = fit_law(table, "chinchilla", objective=objective, delta=delta, starts=4500)
    assert many.starts.polished == 4500 and many.starts.failed == 0
    assert many.starts.agreeing > 2250  # three quarters of a plain walk from each, and no start ends below it
    assert many.objective == pytest.approx(few.objective, rel=1e-9)


def planted(name: str) -> tuple[ScaledLaw, np.ndarray]:
    law = get_law(name)
    design = even_design(law, 60)
    table = simulate_table(law, reference_constants(law, design), design, RunNoise(0.01), 1)
    return make_scaled_law(law, {each: table[each] for each in law.variable_names}), table["loss"]


def test_starts_that_met_nearly_all_end_where_each_by_itself_would():
    table = read_table(RUNS, NAMES, "epochs > 1")
    law = get_law("chinchilla")
    scaled = make_scaled_law(law, {name: table[name] for name in law.variable_names})
    points, _ = start_points(scaled, table["loss"], 4500)
    residuals = residual_function(scaled, np.log(table["loss"]))
    moved = []

    def counted(z, problem):
        moved.append(len(z))
        return residuals(z, problem)

    each = levenberg_marquardt(counted, points, scaled.bounds)
    alone = sum(moved)
    found = follow(scaled, counted, points, Objective())
    assert found.cost.min() == pytest.approx(each.cost.min(), rel=1e-12)
    assert np.mean(np.abs(found.cost / each.cost - 1) < 1e-6) > 0.85  # the others begin on plateaus
    assert sum(moved) - alone < 0.5 * alone


@pytest.mark.parametrize("name", registry())
def test_solving_for_the_linear_constants_reproduces_the_law(name):
    scaled, loss = planted(name)
    z, cost = start_candidates(scaled, loss)
    order = np.argsort(cost)[:20]
    again = np.sum((np.exp(scaled.log_loss(z[order])) / loss - 1) ** 2, axis=1)
    # A part solved for as nothing starts at a ten-thousandth of the largest instead.
    assert np.median(np.abs(again / cost[order] - 1)) < 0.05


def test_a_fixed_floor_is_not_counted_into_the_parts():
    scaled, loss = planted("precision")
    floor = reference_constants(scaled.law, scaled.columns)["E"]
    fixed = make_scaled_law(scaled.law, scaled.columns, {"E": floor})
    z, cost = start_candidates(fixed, loss)
    best = z[cost.argmin()]
    again = np.sum((np.exp(fixed.log_loss(best[None])[0]) / loss - 1) ** 2)
    assert again == pytest.approx(cost.min(), rel=1e-3)


def test_a_constant_without_influence_does_not_stop_the_polish():
    law = get_law("saturating")
    design = even_design(law, 60)
    table = simulate_table(law, reference_constants(law, design), design, RunNoise(0.01), 1)
    fit = fit_law(table, law, objective="huber")
    assert np.isfinite(fit.objective) and fit.identifiability.alarms
    assert fit.starts.agreeing <= fit.starts.polished == 200


def test_the_benchmark_compares_like_with_like():
    task = speed.tasks(read_table(RUNS, NAMES, "epochs > 1"))[1]
    (wall, cpu), (their_wall, their_cpu), lowest = speed.measure(task, 1)
    assert min(wall, cpu, their_wall, their_cpu) > 0
    assert task.ours().objective == pytest.approx(lowest, rel=1e-4)  # scipy stops a little early
