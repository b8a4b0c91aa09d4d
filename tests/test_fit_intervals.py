"""Intervals hold as often as they promise: short forms of the counts in `make truth`."""

import pytest

from truth import intervals
from truth.designs import grid

SLACK = 3.5
"""Monte Carlo errors of grace: a sound interval fails one of 30 counts about once in 100 changes of seed."""


def assert_holds(found, low, high, names=intervals.SHOWN):
    for name in names:
        rate = found[name].rate
        grace = SLACK * found[name].monte_carlo_error
        assert 0.95 - grace <= rate <= min(0.95 + grace, 1.0), (name, rate)
        assert low - grace <= rate <= high + grace


def test_intervals_of_forty_runs_hold():
    found = intervals.independent(grid(), 200)
    assert_holds(found, 0.925, 0.975)
    for name in ("alpha", "beta", "a", "E"):
        assert found[name].spread == pytest.approx(1.0, abs=0.2)  # 200 draws give a standard deviation to 5%
        assert abs(found[name].bias) < 0.3


def test_intervals_of_twenty_runs_hold():
    assert_holds(intervals.independent({name: values[::2] for name, values in grid().items()}, 200), 0.92, 0.98)


def test_intervals_on_shared_trunks_hold_and_naive_ones_do_not():
    found = intervals.shared(150)
    assert_holds(found["gls"], 0.92, 0.98)
    assert found["naive"]["alpha"].rate < 0.7
    assert found["naive"]["a"].rate < 0.7


def test_robust_intervals_survive_outliers():
    found = intervals.outliers(24, "huber")
    for name in ("alpha", "beta", "a", "E"):
        assert found[name].rate >= 0.88 - SLACK * found[name].monte_carlo_error
        assert abs(found[name].bias) <= 0.5
    assert intervals.outliers(24, "gaussian")["alpha"].deviation > 1.2 * found["alpha"].deviation


def test_fixed_ratio_ladders_always_alarm():
    alarm, withheld, held = intervals.fixed_ratio(12)
    assert alarm == withheld == 1.0
    assert held >= 0.6


def test_sum_and_product_are_told_apart():
    found = intervals.curvature(12)
    assert found["product rejected when additive is true"] == 1.0
    assert found["additive rejected when product is true"] == 1.0
    assert found["coverage of q"] >= 0.75
