"""The guard: updates that would spoil a run are left out on the device, counted, and stop it when they do not end."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.config import ModelConfig
from kleiber.model.functional import init_params
from kleiber.train import step as step_module
from kleiber.train.config import GuardConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.batches import next_indices
from kleiber.train.state import Hyperparameters, TrainState
from kleiber.train.step import compile_steps
from kleiber.train.update.guard import LossWindow, StepLog, empty_window, judge
from kleiber.train.update.optimizer import make_optimizer
from kleiber.train.watch.skip_counts import SkipCounts

MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=32, seq_len=8, base_d_model=16, base_num_layers=1)
CONFIG = TrainConfig(MODEL, OptimizerConfig(0.01), (1000,), batch_size=4, steps_per_call=4)
TOKENS = np.random.default_rng(0).integers(0, 32, (4, 4, 9)).astype(np.uint8)


def start(config=CONFIG):
    params = init_params(config.model, 0)
    optimizer = make_optimizer(config.optimizer, config.model, params)
    window = empty_window(config.guard)
    state = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), window)
    return jax.tree.map(jnp.asarray, state), compile_steps(config, optimizer)


def hyper(rate):
    return Hyperparameters(jnp.float32(rate), jnp.float32(0.1))


def run(steps, state, rate=0.01, fractions=(1, 1, 1, 1), count=4):
    return steps(state, hyper(rate), Batch(TOKENS), np.array(fractions, np.float32), np.uint32(0), np.int32(count))


def test_a_nan_weight_is_noticed_at_once_and_spreads_no_further():
    state, steps = start()
    leaves, tree = jax.tree.flatten(state.params)
    poisoned = jax.tree.unflatten(tree, [leaves[0].at[(0,) * leaves[0].ndim].set(jnp.nan), *leaves[1:]])
    before = jax.tree.map(np.asarray, (poisoned, state.opt_state))
    after, log = run(steps, replace(state, params=poisoned))
    assert np.asarray(log.is_skipped).all() and int(after.step) == 4
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves((after.params, after.opt_state)), strict=True):
        np.testing.assert_array_equal(a, b)
    counts = SkipCounts(CONFIG.guard, 1)
    (row,) = counts.look(0, log, 4)
    assert row["loss"] is None and row["skipped"] == 4 and "not finite" in counts.reasons[0]


@pytest.mark.parametrize("bad_steps", [(1,), (1, 2, 3), (0,)])
def test_bad_updates_change_nothing_and_the_others_are_as_if_they_had_not_been(monkeypatch, bad_steps):
    gradients = step_module.gradients

    def spoiled(config, params, batch, *more):
        logged, grads = gradients(config, params, batch, *more)
        is_bad = jnp.all(batch.inputs == 255)  # the mark of a bad batch, see below
        return logged, jax.tree.map(lambda leaf: jnp.where(is_bad, jnp.nan, leaf), grads)

    monkeypatch.setattr(step_module, "gradients", spoiled)
    state, steps = start()
    tokens = TOKENS.copy()
    tokens[list(bad_steps)] = 255
    args = (np.ones(4, np.float32), np.uint32(0))
    after, log = steps(state, hyper(0.01), Batch(tokens), *args, np.int32(4))
    assert np.flatnonzero(log.is_skipped).tolist() == list(bad_steps) and int(after.step) == 4
    good = [step for step in range(4) if step not in bad_steps]
    state, _ = start()
    padded = np.concatenate([TOKENS[good], TOKENS[: 4 - len(good)]])
    expected, _ = steps(state, hyper(0.01), Batch(padded), *args, np.int32(len(good)))
    for a, b in zip(jax.tree.leaves(expected.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_a_loss_or_a_gradient_that_is_not_finite_is_left_out(bad, place):
    loss = jnp.float32(bad if place == "loss" else 1.0)
    grads = {"a": jnp.ones(3), "b": jnp.array([0.0, bad if place == "gradient" else 0.0])}
    is_sound, _, window = judge(GuardConfig(), None, loss, grads)
    assert not bool(is_sound) and window is None
    assert bool(judge(GuardConfig(), None, jnp.float32(1.0), {"a": jnp.ones(3)})[0])


def test_float16_that_overflows_is_left_out():
    config = replace(CONFIG, model=replace(MODEL, compute_dtype="float16"))
    state, steps = start(config)
    huge = jax.tree.map(lambda leaf: leaf * 1e4, state.params)
    after, log = run(steps, replace(state, params=huge))
    assert np.asarray(log.is_skipped).any()
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(after))


def test_the_spike_rule_follows_a_slow_clear_version():
    config = GuardConfig(spike_sigmas=3.0, spike_window=8)
    draw = np.random.default_rng(0)
    losses = draw.normal(2.0, 0.1, 60)
    losses[[2, 20, 40, 41]] += 5.0
    window, accepted, expected, found = empty_window(config), [], [], []
    for loss in losses.astype(np.float32):
        last = np.array(accepted[-8:])
        is_spike = len(accepted) >= 4 and loss > last.mean() + 3.0 * last.std()
        expected.append(bool(is_spike))
        if not is_spike:
            accepted.append(loss)
        is_sound, _, window = judge(config, window, jnp.float32(loss), {"a": jnp.ones(1)})
        found.append(not bool(is_sound))
    assert found == expected and sum(found) >= 3 and not found[2]
    assert isinstance(window, LossWindow) and int(window.count) == len(accepted)


@pytest.mark.parametrize(("loss", "is_spike"), [(2.99, False), (3.01, True)])
def test_the_spike_rule_begins_with_a_window_half_full_and_reads_that_half_alone(loss, is_spike):
    # Accepted losses 1, 2, 1, 2: mean 1.5, standard deviation .5, so 3 of them above the mean is 3.0. With the empty
    # places counted as zeros the limit would be .75 + 3 * sqrt(10 / 8 - .75^2) = 3.24.
    config = GuardConfig(spike_sigmas=3.0, spike_window=8)
    window, grads = empty_window(config), {"a": jnp.ones(1)}
    for accepted in (1.0, 2.0, 1.0):
        is_sound, _, window = judge(config, window, jnp.float32(accepted), grads)
        assert bool(is_sound)
        assert bool(judge(config, window, jnp.float32(100.0), grads)[0])  # fewer than half: nothing is a spike yet
    _, _, window = judge(config, window, jnp.float32(2.0), grads)
    is_sound, _, window = judge(config, window, jnp.float32(loss), grads)
    assert bool(is_sound) is not is_spike and int(window.count) == 5 - is_spike
    np.testing.assert_allclose(window.losses, [1, 2, 1, 2, 0 if is_spike else loss, 0, 0, 0])


def test_the_spike_rule_costs_nothing_when_it_is_off():
    texts = []
    for guard in (GuardConfig(), GuardConfig(spike_window=64, max_consecutive_skips=3)):
        config = replace(CONFIG, guard=guard)
        state, steps = start(config)
        args = (state, hyper(0.01), Batch(TOKENS), np.ones(4, np.float32), np.uint32(0), np.int32(4))
        texts.append(steps.lower(*args).as_text())
        assert state.window is None
    assert texts[0] == texts[1] and "tensor<128xf32>" not in texts[0]


def log_of(skipped):
    skipped = np.array(skipped, bool)
    losses = np.where(skipped, np.nan, 2.0).astype(np.float32)
    return StepLog(losses, losses, skipped, np.float32(1.0))


def test_a_row_of_skips_is_counted_across_calls_and_stops_at_the_limit():
    counts = SkipCounts(GuardConfig(max_consecutive_skips=4), 1)
    counts.look(0, log_of([0, 1, 0, 1]), 4)
    assert counts.in_a_row == [1] and counts.total == [2] and counts.reasons == [""]
    other = SkipCounts(GuardConfig(max_consecutive_skips=4), 1)
    other.restore({"skips": counts.state()})
    (row,) = other.look(4, log_of([1, 1, 1, 1]), 4)
    assert row["skipped_steps"] == [5, 6, 7, 8]
    assert "4 updates in a row" in other.reasons[0] and "last at step 7" in other.reasons[0]
    assert "batches 3 to 6" in other.reasons[0] and counts.reasons == [""]


class Order:
    """Batches of one sequence each, numbered."""

    batch_size, position = 1, 0

    def next_indices(self, count):
        self.position += count
        return np.arange(self.position - count, self.position)[:, None]


def test_skipped_batches_are_left_out_of_an_order_that_otherwise_stays():
    config = GuardConfig(skip_batches=((3, 5), (6, 9)))
    whole = [number for number in range(20) if number not in (3, 4, 6, 7, 8)]
    assert next_indices(config, Order(), 0, 12)[:, 0].tolist() == whole[:12]
    pieces, batches = [], Order()
    for first in range(0, 12, 3):
        pieces += next_indices(config, batches, first, 3)[:, 0].tolist()
    assert pieces == whole[:12]


@pytest.mark.parametrize("ranges", [((5, 5),), ((3, 2),), ((4, 6), (5, 9)), ((-1, 2),)])
def test_ranges_of_batches_that_make_no_sense_are_refused(ranges):
    with pytest.raises(ValueError, match="skip_batches"):
        GuardConfig(skip_batches=ranges)
