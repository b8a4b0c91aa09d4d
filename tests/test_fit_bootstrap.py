"""The bootstrap and profiles agree with the default intervals where these are exact enough."""

import json

import numpy as np
import pytest

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.scaling.fitting.bootstrap import parametric_bootstrap, resampled
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.profile import profile
from kleiber.scaling.fitting.refit import simulate_losses
from kleiber.scaling.table.table import from_columns
from truth.designs import REFERENCE, grid, surface


@pytest.fixture(scope="module")
def fit():
    scaled = surface(grid())
    loss = np.exp(simulate_losses(scaled, scaled.working(REFERENCE), 1, 7, sigma=0.003)[0])
    return fit_law(from_columns({**grid(), "loss": loss}), "chinchilla")


def test_parametric_bootstrap_spreads_as_the_covariance_says(fit):
    refits = parametric_bootstrap(fit, 400)
    assert refits.num_failed == 0
    assert np.std(resampled(fit, "noise", 400).constants["E"]) == pytest.approx(refits.z[:, 0].std(), rel=1e-2)
    stated = np.sqrt(np.diag(fit.uncertainty.covariance))
    np.testing.assert_allclose(refits.z.std(axis=0), stated, rtol=0.15)  # 400 draws: 3.5% a standard error


def test_a_bootstrap_repeats_with_its_seed(fit):
    first, again, other = (parametric_bootstrap(fit, 20, seed=seed).z for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", ["alpha", "beta", "E"])
def test_profile_interval_agrees_with_the_default(fit, name):
    found = profile(fit, name)
    assert found.objective.min() >= fit.objective * (1 - 1e-9)
    low, high = fit.parameters[name].interval_95
    width = high - low
    assert found.interval_95[0] == pytest.approx(low, abs=0.06 * width)
    assert found.interval_95[1] == pytest.approx(high, abs=0.06 * width)


def test_a_scaled_constant_cannot_be_profiled(fit):
    with pytest.raises(ValueError, match="choose one of E, alpha, beta"):
        profile(fit, "A")


def test_drawn_rows_and_clusters_spread_as_the_sandwich_says(fit):
    rows = resampled(fit, "rows", 300)
    assert (rows.count, rows.num_failed) == (300, 0)
    for name in ("alpha", "beta", "E"):
        assert np.std(rows.constants[name]) == pytest.approx(fit.parameters[name].standard_error, rel=0.35)
    rng, table = np.random.default_rng(2), grid()
    run = np.repeat(np.arange(len(table["num_tokens"]) // 2), 2)
    scaled = surface(table)
    loss = np.exp(scaled.log_loss(scaled.working(REFERENCE)[None])[0] + 0.004 * rng.normal(size=run.max() + 1)[run])
    data = from_columns({**table, "loss": loss * np.exp(0.0005 * rng.normal(size=len(run))), "run": run})
    shared = fit_law(data, "chinchilla", cluster="run", objective="huber")
    by_rows, by_run = (np.std(resampled(shared, kind, 150).constants["alpha"]) for kind in ("rows", "clusters"))
    assert by_run > 1.15 * by_rows  # pairs err together: about root 2
    with pytest.raises(ValueError, match="no clusters to draw"):
        resampled(fit, "clusters", 10)


def test_a_bootstrap_is_reached_from_the_command_and_python_alike(tmp_path, capsys, fit):
    rows = np.stack([fit.points[name] for name in ("num_params_total", "num_tokens", "loss")], axis=1)
    path = tmp_path / "t.csv"
    np.savetxt(path, rows, delimiter=",", header="num_params_total,num_tokens,loss", comments="", fmt="%.17g")
    line = ["fit", str(path), "--law", "chinchilla", "--no-in-depth", "--bootstrap", "rows", "--bootstrap-count", "30"]
    assert main([*line, "--bootstrap-seed", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["bootstrap"]
    found = kb.fit(path, "chinchilla").bootstrap("rows", count=30, seed=5)
    assert told == found.to_json() and told["parameters"]["alpha"]["interval_95"] == list(found.intervals_95["alpha"])
    assert main(line) == 0
    assert "bootstrap of chinchilla: 30 draws of rows, seed 0" in capsys.readouterr().out
    assert main([*line[:-3], "clusters"]) == 2


@pytest.mark.parametrize("objective", ["gaussian", "huber"])
def test_a_floor_near_zero_has_an_interval_by_profile_that_holds_and_stays_above_zero(objective):
    params, tokens = (each.ravel() for each in np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e8, 1e10, 5)))
    clean, held, profiled = 0.1 + 20 * params**-0.2 + 40 * tokens**-0.2, 0, 0
    for seed in range(40):
        loss = clean * np.exp(0.01 * np.random.default_rng(seed).normal(size=25))
        table = from_columns({"num_params_total": params, "num_tokens": tokens, "loss": loss})
        low, high = fit_law(table, "chinchilla", objective=objective, starts=4).parameters["E"].interval_95
        assert 0 <= low < high
        held, profiled = held + (low <= 0.1 <= high), profiled + (low == 0)
    assert profiled > 15 and held >= 35, held  # 95 % of 40 are 38, less two errors
