"""Noise shared by the points of a trunk, where the law itself does not fit."""

import numpy as np

from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.forecasting.forecast import combined_forecast
from kleiber.scaling.table.table import from_columns

SHORT_RUNS = np.array(
    [
        (2824, 100096, 2.496, 0),
        (2824, 199936, 2.4235, 0),
        (2824, 399872, 2.3594, 0),
        (2824, 100096, 2.5037, 1),
        (2824, 199936, 2.4198, 1),
        (2824, 399872, 2.3553, 1),
        (7184, 100096, 2.2575, 2),
        (7184, 199936, 2.1104, 2),
        (7184, 399872, 1.9872, 2),
        (7184, 100096, 2.2513, 3),
        (7184, 199936, 2.0911, 3),
        (7184, 399872, 1.9749, 3),
        (13080, 100096, 2.1098, 4),
        (13080, 199936, 1.9317, 4),
        (13080, 399872, 1.8063, 4),
        (13080, 100096, 2.0992, 5),
        (13080, 199936, 1.9365, 5),
        (13080, 399872, 1.8174, 5),
        (20512, 100096, 2.0242, 6),
        (20512, 199936, 1.8484, 6),
        (20512, 399872, 1.7217, 6),
        (20512, 100096, 2.0475, 7),
        (20512, 199936, 1.8569, 7),
        (20512, 399872, 1.7343, 7),
    ]
)
"""Parameters, tokens, loss and trunk of one-layer byte models after a few hundred steps: mostly the start of training,
which an additive law misses by one percent, in the same way along every trunk."""


def short_runs():
    params, tokens, loss, trunk = SHORT_RUNS.T
    columns = {"num_params_total": params, "num_tokens": tokens, "loss": loss}
    return from_columns({**columns, "trunk_id": [f"t{int(each)}" for each in trunk]})


def test_trunk_effects_do_not_take_over_when_the_law_misfits_along_the_trunks():
    alone = fit_law(short_runs(), "chinchilla", cluster="trunk_id")
    plain = fit_law(from_columns(dict(short_runs().columns)), "chinchilla")
    assert alone.residual_rms < 1.1 * plain.residual_rms
    assert alone.noise.tau < 0.05


def test_a_combined_forecast_is_the_weighted_geometric_mean_of_its_laws():
    draw = np.random.default_rng(0)
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(2e4, 3e5, 5), np.geomspace(5e5, 4e6, 4)))
    loss = (1.0 + 490 / params**0.73 + 750 / tokens**0.57) * np.exp(0.004 * draw.standard_normal(len(params)))
    table = from_columns({"num_params_total": params, "num_tokens": tokens, "loss": loss})
    fits = [fit_law(table, law) for law in ("chinchilla", "generalised_mean")]
    both = combined_forecast(fits, 5e4, 2e6)
    singles = [combined_forecast([fit], 5e4, 2e6) for fit in fits]
    # Twenty runs tell forms apart as 20 * 3 / 23 would: Akaike weights to that share of their power.
    akaike = np.exp(-0.5 * np.array([fit.aicc - fits[0].aicc for fit in fits]))
    weights = akaike ** (3 / 23) / np.sum(akaike ** (3 / 23))
    np.testing.assert_allclose([both.weights[fit.law] for fit in fits], weights)
    logs = np.log([single.predicted_loss for single in singles])
    np.testing.assert_allclose(np.log(both.predicted_loss), weights @ logs)
    between = weights @ (logs - weights @ logs) ** 2
    np.testing.assert_allclose(both.parts["form"] ** 2, between / 4)
    own = np.exp(weights @ np.log([(s.standard_error / s.predicted_loss) ** 2 for s in singles]))
    np.testing.assert_allclose((both.standard_error / both.predicted_loss) ** 2, own + between / 4)
