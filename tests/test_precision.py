"""Low precision: 8-bit products round as their formats do, and float16 trains because its loss is scaled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.config import ModelConfig
from kleiber.model.functional import abstract_params, init_params
from kleiber.model.kernels.float8 import float8_matmul, quantise
from kleiber.train.config import GuardConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.state import Hyperparameters, start_state
from kleiber.train.step import compile_steps
from kleiber.train.update.loss_scale import FIRST, GROW_AFTER, LossScale, next_scale
from kleiber.train.update.optimizer import make_optimizer

MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=32, seq_len=16)
STEPS = 30


def test_small_integers_pass_through_eight_bits_unchanged():
    """e4m3 holds the integers to 16, and 448 / 16 is a scale that rounds nothing."""
    values = np.arange(-14, 15, dtype=np.float32)
    stored, scale = quantise(jnp.asarray(values), jnp.float8_e4m3fn)
    assert float(scale) == 14 / 448
    np.testing.assert_array_equal(np.asarray(stored, np.float32) * float(scale), values)
    weight = np.eye(29, dtype=np.float32)
    np.testing.assert_allclose(float8_matmul(jnp.asarray(values[None]), weight)[0], values, rtol=1e-6)


def test_rounding_errors_are_those_of_three_and_two_bits_of_fraction():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(64, 256)).astype(np.float32), rng.normal(size=(256, 32)).astype(np.float32)
    direction = rng.normal(size=(64, 32)).astype(np.float32)

    def distance(a, b):
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    y, pullback = jax.vjp(float8_matmul, x, weight)
    dx, dweight = pullback(direction)
    # A number rounded to m bits of fraction is off by a relative 2^-m / sqrt(12) times about .72, averaged over a
    # binade: 2.6 % for e4m3, 5.2 % for e5m2. Two independent roundings add as squares.
    assert distance(y, x @ weight) == pytest.approx(0.026 * 2**0.5, rel=0.15)
    assert distance(dx, direction @ weight.T) == pytest.approx((0.026**2 + 0.052**2) ** 0.5, rel=0.15)
    assert distance(dweight, x.T @ direction) == pytest.approx((0.026**2 + 0.052**2) ** 0.5, rel=0.15)


def train(scale=None, learning_rate=0.01, **fields):
    config = TrainConfig(
        dataclasses.replace(MODEL, **fields),
        OptimizerConfig(learning_rate, clip_norm=None),
        (100,),
        steps_per_call=STEPS,
        guard=GuardConfig(max_consecutive_skips=STEPS),
    )
    optimizer = make_optimizer(config.optimizer, config.model, abstract_params(config.model))
    state = start_state(config, optimizer, jax.tree.map(jnp.asarray, init_params(config.model, 0)))
    if scale is not None:
        state = dataclasses.replace(state, loss_scale=LossScale(jnp.float32(scale), jnp.int32(0)))
    tokens = np.tile(np.arange(17, dtype=np.int32) * 5 % 32, (STEPS, 4, 1))
    hyper = Hyperparameters(np.float32(learning_rate), np.float32(0.0))
    fractions = np.ones(STEPS, np.float32)
    return compile_steps(config, optimizer)(state, hyper, Batch(tokens), fractions, np.uint32(0), np.int32(STEPS))


def test_every_precision_learns_what_float32_learns():
    expected = train()[1].losses
    assert expected[-1] < 0.2 * expected[0]
    for fields in ({"compute_dtype": "float16"}, {"compute_dtype": "bfloat16"}, {"has_float8_products": True}):
        state, log = train(**fields)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.params)} == {"float32"}
        np.testing.assert_allclose(log.losses, expected, atol=0.15)
        assert not np.allclose(log.losses, expected, atol=1e-6)


def test_a_scale_that_overflows_is_halved_until_it_fits_and_no_update_is_spoilt():
    state, log = train(scale=2.0**24, compute_dtype="float16")
    num_skipped = int(np.sum(log.is_skipped))
    assert 0 < num_skipped < 20 and not log.is_skipped[-1]
    assert float(state.loss_scale.scale) == 2.0 ** (24 - num_skipped)
    assert np.isfinite(log.losses).all() and log.losses[-1] < log.losses[0]


def test_the_scale_doubles_after_two_thousand_sound_updates():
    scale = LossScale(jnp.float32(FIRST), jnp.int32(GROW_AFTER - 2))
    scale = next_scale(scale, jnp.bool_(True))
    assert (float(scale.scale), int(scale.num_sound)) == (FIRST, GROW_AFTER - 1)
    scale = next_scale(scale, jnp.bool_(True))
    assert (float(scale.scale), int(scale.num_sound)) == (2 * FIRST, 0)
    scale = next_scale(scale, jnp.bool_(False))
    assert (float(scale.scale), int(scale.num_sound)) == (FIRST, 0)
