"""Where a run under way will end: told from the runs that have ended, by hand-made curves of one family and of two."""

import numpy as np
import pytest

from kleiber.scaling.forecasting.live import Curve, expected_end

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
    return [curve(planned, size, **options) for planned in TOKENS for size in SIZES]


def test_a_larger_run_of_the_family_ends_where_its_curve_says():
    running = curve(8e6, 64e4, until=0.4, is_ended=False)
    found = expected_end(running, family())
    assert found.loss == pytest.approx(curve(8e6, 64e4).final_loss, rel=1e-9)
    assert found.share == pytest.approx(0.4) and found.high / found.low == pytest.approx(1)


def test_intervals_hold_as_often_as_they_say():
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        ended = [
            curve(planned, size, noise=0.02, ends_off=0.005 * rng.normal(), rng=rng)
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
    [family()[:2], [curve(1e6, size) for size in SIZES] * 2, [curve(planned, 1e4) for planned in TOKENS] * 2, []],
    ids=["two runs", "one length", "one size", "none"],
)
def test_nothing_is_said_of_a_run_that_those_that_ended_say_nothing_of(curves):
    assert expected_end(curve(8e6, 64e4, until=0.4, is_ended=False), curves) is None


def test_nothing_is_said_of_the_first_steps():
    assert expected_end(curve(8e6, 64e4, until=0.1, is_ended=False), family()) is None


def test_a_forecast_counts_by_its_precision():
    """Two estimates of one variance meet in the middle, and are surer by a factor of sqrt(2)."""
    rng = np.random.default_rng(1)
    ended = [curve(p, n, ends_off=0.01 * rng.normal()) for p in TOKENS for n in SIZES]
    running = curve(8e6, 64e4, until=0.4, is_ended=False)
    alone = expected_end(running, ended)
    from scipy.stats import t

    error = np.log(alone.high / alone.loss) / t.ppf(0.95, 9 - 3)
    both = expected_end(running, ended, (np.log(alone.loss) + 0.02, error))
    assert np.log(both.loss / alone.loss) == pytest.approx(0.01)
    assert np.log(both.high / both.loss) == pytest.approx(np.log(alone.high / alone.loss) / 2**0.5)
