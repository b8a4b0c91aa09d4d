"""Bootstraps and profiles agree with the default intervals where these are exact enough."""

import numpy as np
import pytest

from kleiber.scaling.fitting.bootstrap import cluster_bootstrap, parametric_bootstrap, profile
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.refit import simulate
from kleiber.scaling.table.table import from_columns
from truth.designs import REFERENCE, grid, surface, trunks


@pytest.fixture(scope="module")
def fit():
    model = surface(grid())
    loss = np.exp(simulate(model, model.working(REFERENCE), 1, 7, sigma=0.003)[0])
    return fit_law(from_columns({**grid(), "loss": loss}), "chinchilla")


def test_parametric_bootstrap_spreads_as_the_covariance_says(fit):
    refits = parametric_bootstrap(fit, 400)
    assert refits.num_failed == 0
    stated = np.sqrt(np.diag(fit.uncertainty.covariance))
    np.testing.assert_allclose(refits.z.std(axis=0), stated, rtol=0.15)  # 400 draws: 3.5% a standard error


def test_bootstraps_repeat_with_their_seed(fit):
    np.testing.assert_array_equal(cluster_bootstrap(fit, 20, seed=3), cluster_bootstrap(fit, 20, seed=3))
    assert not np.array_equal(cluster_bootstrap(fit, 20, seed=3), cluster_bootstrap(fit, 20, seed=4))


def test_cluster_bootstrap_spreads_about_as_the_covariance_says():
    columns, trunk = trunks(12, 5)
    model = surface(columns)
    loss = np.exp(simulate(model, model.working(REFERENCE), 1, 8, sigma=0.003, tau=0.005, cluster=trunk)[0])
    fit = fit_law(from_columns({**columns, "loss": loss, "trunk_id": trunk}), "chinchilla", cluster="trunk_id")
    spread = cluster_bootstrap(fit, 300).std(axis=0)
    ratio = spread / np.sqrt(np.diag(fit.uncertainty.covariance))
    assert (0.3 < ratio).all() and (ratio < 3).all()


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
