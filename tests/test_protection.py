"""Intervals that take in what a table says of its own forecasts."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, t

from kleiber.experiments.cli import main
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.part import fit_part
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import combined_forecast
from kleiber.scaling.forecasting.mixture import mix
from kleiber.scaling.forecasting.rolling import (
    CAUTION_ALONE,
    DRIFT,
    PRIOR_ORIGINS,
    Protection,
    protect,
    reach_of,
    roll_origin,
)
from kleiber.scaling.table.table import RunTable, from_columns
from truth.tables import public_tables


def grid_table(noise: float = 0.003, trunk: float = 0.0, kink: float = 0.0) -> RunTable:
    """Returns 8 sizes by 6 token counts of an additive law, cheaper runs first; with a kink, dear runs are worse."""
    draw = np.random.default_rng(0)
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e9, 1e11, 6)))
    names = np.array([f"t{index % 8}" for index in range(len(params))])
    loss = 1.7 + 400 / params**0.34 + 410 / tokens**0.28 + kink * np.maximum(np.log(params * tokens / 1e18), 0) ** 2
    shared = trunk * draw.standard_normal(8)[np.arange(len(params)) % 8]
    loss = loss * np.exp(noise * draw.standard_normal(len(params)) + shared)
    order = np.argsort(params * tokens, kind="stable")
    columns = {"num_params_total": params, "num_tokens": tokens, "loss": loss, "trunk_id": names}
    return from_columns({name: values[order] for name, values in columns.items()})


@pytest.fixture(scope="module")
def fits() -> list[FitResult]:
    table = grid_table()
    return [fit_law(table, law, cluster="trunk_id") for law in ("chinchilla", "generalised_mean")]


@pytest.mark.parametrize(
    "options",
    [{}, {"cluster": "trunk_id"}, {"objective": "huber", "delta": 0.003}, {"residuals": "raw"}],
)
def test_a_part_fitted_from_where_the_whole_ended_is_the_fit_of_the_part(options):
    table, rows = grid_table(trunk=0.004), np.arange(30)
    whole = (
        fit_law(table, "chinchilla", **options)
        if "cluster" in options
        else fit_law(_plain(table), "chinchilla", **options)
    )
    part = fit_part(whole, rows)
    cold = fit_law(
        (table if "cluster" in options else _plain(table)).where(np.arange(len(table)) < 30), "chinchilla", **options
    )
    point = {"num_params_total": np.array([3e9]), "num_tokens": np.array([3e11])}
    found, right = mix([part], point), mix([cold], point)
    assert part.aicc == pytest.approx(cold.aicc, abs=1e-3)
    assert found.log_loss[0] == pytest.approx(right.log_loss[0], abs=1e-4)
    assert found.variance[0] == pytest.approx(right.variance[0], rel=0.01)


def _plain(table: RunTable) -> RunTable:
    return from_columns(dict(table.columns))


def test_protection_of_raw_residuals_follows_the_unit_of_the_losses():
    table = _plain(grid_table(0.001))
    scaled = from_columns({**table.columns, "loss": 10 * table["loss"]})
    near, far = ([fit_law(each, "chinchilla", residuals="raw")] for each in (table, scaled))
    ours, theirs = (combined_forecast(fit, 3e9, 3e11, 0.9, None, protect(fit)) for fit in (near, far))
    assert theirs.rolling_factor == pytest.approx(ours.rolling_factor, rel=1e-4)
    np.testing.assert_allclose(theirs.interval, 10 * np.array(ours.interval), rtol=1e-4)


def test_dear_runs_of_little_weight_are_held_against_the_noise_of_their_weight():
    table = _plain(grid_table(0.001))
    compute = table["num_params_total"] * table["num_tokens"]
    errors = np.where(compute > np.quantile(compute, 0.6), 0.03, 0.001)
    losses = table["loss"] * np.exp(errors * np.random.default_rng(1).standard_normal(len(errors)))
    columns = {**table.columns, "loss": losses, "error": errors * losses}
    weighed = protect([fit_law(from_columns(columns), "chinchilla", weights="error")])
    assert weighed.origins and 0.5 < weighed.origins[0]["standardised_error"] < 1.5  # 10 times that if all were alike


def test_reach_is_compute_beyond_the_largest_or_the_variables_beyond_their_ranges():
    runs = {"num_params_total": np.array([1e6, 1e8]), "num_tokens": np.array([1e10, 1e9])}
    asked = {
        "num_params_total": np.array([1e7, 1e8, 1e9, 1e5]),
        "num_tokens": np.array([1e10, 1e11, 1e7, 1e9]),
    }
    # Inside; ten times the tokens, so 100 times the compute of either run; ten times the parameters and a hundredth
    # of the tokens; a tenth of the parameters.
    tens = np.array([0.0, 2.0, 3.0, 1.0])
    np.testing.assert_allclose(reach_of(runs, asked), tens * math.log(10))


def test_the_factor_is_the_rms_standardised_error_of_the_tables_own_dearer_runs(fits):
    fit = fits[0]
    origins = roll_origin([fit])
    found = protect([fit], origins)
    squares = []
    for origin in origins:
        part = origin.fits[0]
        columns = {name: fit.points[name][origin.dearer] for name in ("num_params_total", "num_tokens")}
        fitted = {name: fit.points[name][origin.rows] for name in columns}
        compute = columns["num_params_total"] * columns["num_tokens"]
        beyond = sum(np.maximum(np.log(columns[name] / fitted[name].max()), 0) for name in columns)
        largest = np.max(fitted["num_params_total"] * fitted["num_tokens"])
        drift = DRIFT * np.maximum(beyond, np.log(compute / largest))
        said = mix([part], columns)
        error = np.log(fit.points["loss"][origin.dearer]) - said.log_loss
        squares.append(np.mean(error**2 / (said.own + drift**2)))
    mean = (PRIOR_ORIGINS + sum(squares)) / (PRIOR_ORIGINS + len(squares))
    assert found.factor == pytest.approx(CAUTION_ALONE * mean**0.5)
    assert found.degrees_of_freedom == PRIOR_ORIGINS + len(origins)


def test_every_run_is_forecast_by_origins_that_saw_only_cheaper_ones(fits):
    compute = fits[0].points["num_params_total"] * fits[0].points["num_tokens"]
    origins = roll_origin(fits)
    assert all(compute[each.dearer].min() > 1.01 * compute[each.rows].max() for each in origins)
    assert sum(len(each.block) for each in origins) == len(origins[0].dearer)


def test_a_law_that_missed_the_tables_dear_runs_is_wider_and_alarmed():
    sound, kinked = (protect([fit_law(_plain(grid_table(0.001, kink=k)), "chinchilla")]) for k in (0.0, 0.02))
    assert kinked.factor > 2 * sound.factor
    assert not sound.alarms and kinked.alarms[0].startswith("rolling-origin: ")


def test_a_first_law_that_lies_far_from_all_together_is_noted(fits):
    draw = np.random.default_rng(0)
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e9, 1e11, 6)))
    curved = (1.1 + ((60 * params**-0.2) ** 2.5 + (30 * tokens**-0.15) ** 2.5) ** 0.4) * np.exp(
        0.001 * draw.standard_normal(48)
    )
    table = from_columns({"num_params_total": params, "num_tokens": tokens, "loss": curved})
    bent = [fit_law(table, law) for law in ("chinchilla", "generalised_mean")]
    far = combined_forecast(bent, 1e11, 1e13)
    alone, both = (np.log(each.predicted_loss) for each in (combined_forecast(bent[:1], 1e11, 1e13), far))
    half = np.log(combined_forecast(bent[:1], 1e11, 1e13).interval[1]) - alone
    assert abs(alone - both) > 2 / 3 * half
    assert any(f"chinchilla alone lies {abs(alone - both) / half:.1f} half-widths" in note for note in far.notes)
    assert not any("alone lies" in note for note in combined_forecast(fits, 1e9, 1e11).notes)


def test_a_dear_run_far_off_does_not_widen_forecasts_of_a_robust_fit():
    table = _plain(grid_table(0.001))
    dearest = np.arange(48) == np.argmax(table["num_params_total"] * table["num_tokens"])
    off = from_columns({**table.columns, "loss": np.where(dearest, 9.0, table["loss"])})
    sound, robust, plain = (
        protect([fit_law(each, "chinchilla", objective=kind)])
        for each, kind in ((table, "huber"), (off, "huber"), (off, "gaussian"))
    )
    assert robust.factor < 2 * sound.factor and not robust.alarms
    assert plain.factor > 10 * sound.factor and plain.alarms


def test_runs_too_few_for_an_origin_are_said_to_be():
    table = _plain(grid_table()).where(np.arange(48) % 6 == 0)
    found = protect([fit_law(table, "chinchilla")])
    assert not found.origins and found.factor == CAUTION_ALONE and found.degrees_of_freedom == PRIOR_ORIGINS
    assert found.alarms == ("rolling-origin: too few runs to forecast some of them from the others",)


def test_a_protected_forecast_adds_its_parts_and_widens_with_distance(fits):
    protection = protect(fits)
    near, far = (combined_forecast(fits, n, 20 * n, 0.9, None, protection) for n in (2e9, 2e10))
    assert near.predicted_loss == combined_forecast(fits, 2e9, 4e10).predicted_loss
    total = protection.factor * math.sqrt(sum(part**2 for part in far.parts.values()))
    assert far.standard_error == pytest.approx(far.predicted_loss * total)
    assert far.parts["extrapolation"] > near.parts["extrapolation"] > 0
    assert "by rolling origin" in near.report() and "extrapolation" in near.report()
    assert Protection.from_json(json.loads(json.dumps(protection.to_json()))) == protection


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = grid_table()
    path = tmp_path_factory.mktemp("protection") / "runs.csv"
    names = ("num_params_total", "num_tokens", "loss")
    rows = [
        ",".join(names),
        *(",".join(map(repr, map(float, row))) for row in zip(*map(table.__getitem__, names), strict=True)),
    ]
    path.write_text("\n".join(rows))
    return path


def printed(capsys, *words: str) -> dict:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_default_fits_rivals_and_forecasts_with_what_it_measured(csv, tmp_path, capsys):
    found = printed(capsys, "fit", str(csv), "--no-in-depth")
    assert found["law"] == "chinchilla" and len(found["rivals"]) == 4
    assert sum(found["form_weights"].values()) == pytest.approx(1)
    path = tmp_path / "fit.json"
    del found["sealed"], found["seal"]  # as a fit of before there were seals
    path.write_text(json.dumps({**found, "rolling_origin": {**found["rolling_origin"], "factor": 7.0}}))
    point = ("forecast", str(path), "--num-params", "1e10", "--num-tokens", "1e11")
    stored, plain = printed(capsys, *point), printed(capsys, *point, "--protect", "none")
    assert stored["rolling_factor"] == 7 and plain["rolling_factor"] == 1 and plain["parts"]["extrapolation"] == 0
    del found["rolling_origin"]
    path.write_text(json.dumps(found))
    assert printed(capsys, *point)["rolling_factor"] == pytest.approx(0.6, abs=0.2)


def test_a_law_asked_for_is_protected_unless_asked_off_by_name(csv, tmp_path, capsys):
    path = tmp_path / "fit.json"
    widths = {}
    for protect_by in ("rolling_origin", "none"):
        line = ("fit", str(csv), "--law", "chinchilla", "--no-in-depth", "--protect", protect_by)
        path.write_text(json.dumps(printed(capsys, *line)))
        said = printed(capsys, "forecast", str(path), "--num-params", "3e10", "--num-tokens", "3e12")
        widths[protect_by] = said["interval"][1] - said["interval"][0]
    alone = combined_forecast([fit_law(_plain(grid_table()), "chinchilla")], 3e10, 3e12)
    assert widths["none"] == pytest.approx(alone.interval[1] - alone.interval[0], rel=1e-6)
    assert widths["rolling_origin"] > 1.5 * widths["none"]


def test_a_table_of_other_people_is_forecast_inside_its_intervals():
    table = public_tables()["gadre_rpj"]
    fitted, asked = table.where(np.arange(len(table)) < 24), table.where(np.arange(len(table)) >= 24)
    fits = [fit_law(fitted, law) for law in ("chinchilla", "generalised_mean", "saturating", "product", "kaplan")]
    protection = protect(fits)
    inside = []
    for size, tokens, loss in zip(asked["num_params_total"], asked["num_tokens"], asked["loss"], strict=True):
        low, high = combined_forecast(fits, size, tokens, 0.9, None, protection).interval
        inside.append(low <= loss <= high)
    assert np.mean(inside) >= 0.85


def test_a_law_slightly_wrong_is_forecast_inside_its_intervals(tmp_path, capsys):
    # A generalised mean of curvature 0.4, fitted up to a seventeenth of the dearest compute.
    draw = np.random.default_rng(3)
    axes = np.meshgrid(np.geomspace(5e7, 1.7e9, 6), np.geomspace(6e9, 3e11, 9), indexing="ij")
    params, tokens = (x.ravel() for x in axes)
    curved = ((60 * params**-0.2) ** 2.5 + (30 * tokens**-0.15) ** 2.5) ** 0.4
    loss = (1.1 + curved) * np.exp(draw.normal(0, 0.002, 54))
    cheap = params * tokens <= np.sort(params * tokens)[37]
    for name, rows in (("runs", cheap), ("later", ~cheap)):
        table = np.stack([params, tokens, loss], axis=1)[rows]
        header = "num_params_total,num_tokens,loss"
        np.savetxt(tmp_path / f"{name}.csv", table, delimiter=",", header=header, comments="")
    fit = printed(capsys, "fit", str(tmp_path / "runs.csv"))
    (tmp_path / "fit.json").write_text(json.dumps(fit))
    rows = printed(capsys, "forecast", str(tmp_path / "fit.json"), str(tmp_path / "later.csv"))["forecasts"]
    inside = [row["interval_low"] <= row["loss"] <= row["interval_high"] for row in rows]
    assert len(rows) == 16 and sum(inside) >= 13
    assert abs(np.mean([row["predicted_loss"] / row["loss"] - 1 for row in rows])) < 0.01


@pytest.mark.parametrize("num_noisy", [0, 8])
def test_no_interval_is_narrower_than_the_form_says_if_all_runs_scatter_as_most_do(num_noisy):
    table = _plain(grid_table())
    noisy = np.where(np.arange(48) < num_noisy, 1 + 0.05 * np.sin(np.arange(48)), 1.0)
    fit = fit_law(from_columns({**table.columns, "loss": table["loss"] * noisy}), "chinchilla")
    # 48 runs and 5 constants leave 43 degrees; the smallest 5 residuals are what constants can null.
    bulk = np.median(np.sort(np.abs(fit.residuals))[5:]) / norm.ppf(0.75)
    share = min(bulk**2 / (np.sum(fit.residuals**2) / 43), 1.0)
    assert (share < 0.3) == (num_noisy > 0)
    alone, least = (
        combined_forecast([fit], 1e8, 1e10, 0.9, None, each) for each in (None, replace(protect([fit]), factor=1e-6))
    )
    half = t.ppf(0.95, 43) * np.sqrt(share) * alone.standard_error / alone.predicted_loss
    assert np.log(least.interval[1] / least.predicted_loss) == pytest.approx(half, rel=1e-4)


def test_runs_without_budgets_have_origins_too():
    draw = np.random.default_rng(1)
    params, tokens = np.exp(draw.uniform(15, 20, 3000)), np.exp(draw.uniform(20, 25, 3000))
    loss = (1.7 + 400 / params**0.34 + 410 / tokens**0.28) * np.exp(0.003 * draw.standard_normal(3000))
    fit = fit_law(from_columns({"num_params_total": params, "num_tokens": tokens, "loss": loss}), "chinchilla")
    origins = roll_origin([fit])
    # Of a long table 2,000 runs are fitted again, the first time the cheapest 40% of them.
    assert len(origins) == 4 and sum(len(each.block) for each in origins) == pytest.approx(1200, abs=40)
