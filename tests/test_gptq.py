"""Rounding by what a matrix gives: plain loops, exhaustive search where it must be equal, levels at a run's end."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_compress import DENSE as LONGER
from test_compress import MODEL, level, run, tokens_of_no_corpus  # noqa: F401

from kleiber.model.calibration import second_moments
from kleiber.model.compress.gptq import DAMPING, gptq
from kleiber.model.compress.rounding import Rounding, quantise, rounded, scales_of
from kleiber.model.compress.tree import begin, compress
from kleiber.model.config import CompressionConfig, ExpertsConfig
from kleiber.model.functional import abstract_params

RNG = np.random.default_rng(0)


def drawn(num_inputs, num_outputs, num_rows=200):
    """Returns a weight and correlated inputs of it."""
    inputs = RNG.standard_normal((num_rows, num_inputs)) @ RNG.standard_normal((num_inputs, num_inputs))
    return RNG.standard_normal((num_inputs, num_outputs)).astype(np.float32), inputs.astype(np.float32)


def moment_of(inputs):
    return jnp.asarray(inputs.T @ inputs / len(inputs), jnp.float32)


@pytest.mark.parametrize("rounding", [Rounding(3), Rounding(4, group_size=3), Rounding(3, is_clipped=True)])
def test_it_is_the_rounding_of_one_input_after_another_by_plain_loops(rounding):
    """After each input the inverse of what is left is made anew, in float64 (Hassibi and Stork 1993, equation 5)."""
    weight, inputs = drawn(6, 4)
    moment = np.asarray(moment_of(inputs), np.float64)
    moment += DAMPING * np.diag(moment).mean() * np.eye(6)
    scales = np.asarray(scales_of(jnp.asarray(weight), rounding), np.float64)
    expected, current, left = np.zeros((6, 4)), weight.astype(np.float64), list(range(6))
    for i in range(6):
        inverse = np.linalg.inv(moment[np.ix_(left, left)])
        scale = scales[i // (rounding.group_size or 6), 0]
        most = 2 ** (rounding.bits - 1) - 1
        expected[i] = np.clip(np.round(current[i] / scale), -most, most) * scale
        current[left] -= np.outer(inverse[:, 0], (current[i] - expected[i]) / inverse[0, 0])
        left = left[1:]
    np.testing.assert_allclose(gptq(jnp.asarray(weight), rounding, moment_of(inputs)), expected, atol=1e-5)


def test_of_one_input_or_inputs_that_are_not_correlated_no_choice_is_better():
    for num_inputs, moment in ((1, jnp.array([[2.0]])), (3, jnp.diag(jnp.array([0.2, 3.0, 1.0])))):
        weight = RNG.standard_normal((num_inputs, 1)).astype(np.float32)
        scale = float(scales_of(jnp.asarray(weight), Rounding(3)).item())

        choices = np.array(list(product(range(-3, 4), repeat=num_inputs))) * scale
        costs = np.square(choices - weight[:, 0]) @ np.diag(moment)
        found = np.asarray(gptq(jnp.asarray(weight), Rounding(3), moment))[:, 0]
        np.testing.assert_allclose(found, choices[costs.argmin()], rtol=1e-5)


def test_of_correlated_inputs_what_a_matrix_gives_is_kept_better_than_by_the_nearest():
    weight, inputs = drawn(32, 16)
    for bits in (2, 3, 4):
        errors = [
            np.square(inputs @ (np.asarray(found) - weight)).sum()
            for found in (gptq(jnp.asarray(weight), Rounding(bits), moment_of(inputs)), rounded(weight, Rounding(bits)))
        ]
        assert errors[0] < 0.6 * errors[1]


def test_inputs_that_are_never_there_leave_the_nearest():
    weight, _ = drawn(4, 3)
    found = gptq(jnp.asarray(weight), Rounding(4), jnp.zeros((4, 4)))
    np.testing.assert_allclose(found, rounded(jnp.asarray(weight), Rounding(4)), rtol=1e-6)


def test_a_model_is_rounded_matrix_by_matrix_and_its_tables_to_the_nearest():
    model = replace(MODEL, num_layers=2, has_scanned_layers=True)
    few = replace(model, compression=CompressionConfig(weight_bits=3, table_bits=8, rounding="gptq"))
    params = jax.tree.map(lambda p: jnp.asarray(RNG.standard_normal(p.shape), jnp.float32), abstract_params(model))
    moments = second_moments(model, params, RNG.integers(0, 32, (8, 8)).astype(np.int32))
    read = compress(few, begin(model, few, params, moments=moments))
    up, path = params["blocks"]["feed_forward"]["up"], "blocks/feed_forward/up"
    for layer in (0, 1):
        alone = gptq(up[layer], Rounding(3), moments[path][layer])
        np.testing.assert_allclose(read["blocks"]["feed_forward"]["up"][layer], alone, atol=1e-5)
    codes, _ = quantise(params["input"]["embedding"], Rounding(8, -1))
    assert len(np.unique(codes)) > 16  # the table has bits of its own
    np.testing.assert_array_equal(read["input"]["embedding"], rounded(params["input"]["embedding"], Rounding(8, -1)))


def test_a_level_at_the_end_differs_from_that_of_the_nearest_and_costs_no_training(tmp_path):
    dense = replace(LONGER, num_tokens=(320,))
    levels = [dense, *(level(dense, when="end", weight_bits=3, rounding=each) for each in ("nearest", "gptq"))]
    points, trunk = run(levels, tmp_path)
    assert trunk.totals.trained_tokens == 320
    assert len({points[place, 320].evaluation.loss for place in range(3)}) == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "rounding gptq with weight_bits 32, which rounds nothing"),
        ({"weight_bits": 4, "sparsity": 0.5}, "rounding gptq with sparsity or rank_share"),
        ({"weight_bits": 4}, "rounding gptq with compressed_from 'cooldown': it rounds a finished model"),
    ],
)
def test_what_it_cannot_round_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        level(rounding="gptq", **fields)


def test_experts_are_refused():
    with pytest.raises(ValueError, match="rounding gptq with model.experts"):
        replace(MODEL, experts=ExpertsConfig(2), compression=CompressionConfig(weight_bits=4, rounding="gptq"))
