"""The bootstrap and profiles agree with the default intervals where these are exact enough."""

import numpy as np
import pytest

from kleiber.scaling.fitting.bootstrap import parametric_bootstrap, profile
from kleiber.scaling.fitting.fit import fit_law
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
