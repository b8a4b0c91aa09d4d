"""The learning rate over the steps."""

import numpy as np

from kleiber.train.config import ScheduleConfig
from kleiber.train.update.schedule import cooldown_start, learning_rate_fraction


def test_warmup_reaches_the_peak_at_its_last_step_and_never_is_zero():
    schedule = ScheduleConfig(warmup_steps=4)
    np.testing.assert_allclose(learning_rate_fraction(schedule, np.arange(6), 100), [0.25, 0.5, 0.75, 1, 1, 1])


def test_one_minus_sqrt_cooldown_has_the_values_worked_out_by_hand():
    # 20 steps, 20 % cooldown: steps 16..19 are 1 to 4 fifths of the way down.
    schedule = ScheduleConfig(warmup_steps=1, cooldown_fraction=0.2)
    assert cooldown_start(schedule, 20) == 16
    expected = [1.0, 1 - 0.2**0.5, 1 - 0.4**0.5, 1 - 0.6**0.5, 1 - 0.8**0.5]
    np.testing.assert_allclose(learning_rate_fraction(schedule, np.arange(15, 20), 20), expected, rtol=1e-6)


def test_two_branches_share_their_trunk_up_to_the_earlier_cooldown():
    schedule = ScheduleConfig(warmup_steps=10)
    shared = np.arange(cooldown_start(schedule, 100))
    short, long = (learning_rate_fraction(schedule, shared, total) for total in (100, 300))
    np.testing.assert_array_equal(short, long)


def test_cosine_is_half_way_down_in_the_middle_and_zero_at_the_end():
    schedule = ScheduleConfig(kind="cosine", warmup_steps=0)
    np.testing.assert_allclose(learning_rate_fraction(schedule, np.array([0, 50, 100]), 100), [1, 0.5, 0], atol=1e-7)


def test_constant_never_cools_down():
    schedule = ScheduleConfig(kind="constant", warmup_steps=2)
    assert cooldown_start(schedule, 50) == 50
    np.testing.assert_array_equal(learning_rate_fraction(schedule, np.arange(2, 50), 50), np.ones(48))
