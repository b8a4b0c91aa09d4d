"""Weights of few bits: codes by hand, packed without loss, read by every layer, and a gradient that passes through."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.compress.rounding import Rounding, pack, quantise, restore, rounded, rounding_of, unpack
from kleiber.model.compress.tree import compress
from kleiber.model.config import CompressionConfig, ExpertsConfig, ModelConfig
from kleiber.model.functional import abstract_params, apply

DRAW = np.random.default_rng(0)
SMALL = ModelConfig(d_model=8, num_layers=2, num_heads=2, vocab_size=16, seq_len=8, has_previous_token_mix=True)
RICH = replace(
    SMALL, has_scanned_layers=True, has_tied_head=False, positions="learned", is_gated=True, d_ff=16,
    experts=ExpertsConfig(2, 1), has_norm_gain=True,
)  # fmt: skip
TOKENS = DRAW.integers(0, 16, (2, 8)).astype(np.int32)


def of_bits(model, **fields):
    return replace(model, compression=CompressionConfig(**fields))


def drawn(model):
    """Returns weights that are all different: some start at zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(p.dtype), abstract_params(model))


def slow(weight, bits, axis, group):
    """Rounds one output after another, one group after another, in plain loops."""
    matrix = (weight.T if axis == -1 else weight).astype(np.float32)
    result, group = np.zeros_like(matrix), group or len(matrix)
    for f in range(matrix.shape[1]):
        for start in range(0, len(matrix), group):
            part = matrix[start : start + group, f]
            scale = float(np.abs(part).max()) / (2 ** (bits - 1) - 0.5) * (1 + 2**-18)
            codes = [round(float(w) / scale) for w in part]
            result[start : start + group, f] = np.float32(codes) * np.float32(scale)
    return result.T if axis == -1 else result


def test_codes_of_four_bits_are_those_worked_out_by_hand():
    weight = jnp.array([7.5, -7.5, 3.4, -3.6, 0.5, 1.5, 0.0])[:, None]
    codes, scales = quantise(weight, Rounding(4))
    assert scales.item() == pytest.approx(1.0, rel=1e-5)
    assert codes.ravel().tolist() == [7, -7, 3, -4, 0, 1, 0]  # half a step off at most, the largest included
    assert rounded(jnp.zeros((3, 2)), Rounding(4)).tolist() == np.zeros((3, 2)).tolist()


@pytest.mark.parametrize(("bits", "axis", "group"), [(2, -2, None), (3, -2, 4), (4, -1, None), (5, -2, 2), (8, -2, 12)])
def test_rounding_is_that_of_plain_loops(bits, axis, group):
    weight = DRAW.standard_normal((12, 5)).astype(np.float32)
    found = rounded(jnp.asarray(weight), Rounding(bits, axis, group))
    np.testing.assert_allclose(found, slow(weight, bits, axis, group), rtol=1e-6)
    stacked = rounded(jnp.stack([weight, 2 * weight]), Rounding(bits, axis, group))
    np.testing.assert_array_equal(stacked[0], found)


def test_eight_bit_floats_are_those_of_the_format():
    weight = DRAW.standard_normal((16, 3)).astype(np.float32)
    scale = np.abs(weight).max(axis=0) / np.float32(448)
    by_format = (weight / scale).astype(jnp.float8_e4m3fn).astype(np.float32) * scale
    np.testing.assert_allclose(rounded(jnp.asarray(weight), Rounding(8, is_float=True)), by_format, rtol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_codes_come_back_and_take_the_bits_they_have(bits):
    codes = DRAW.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (7, 3, 5))
    packed = pack(codes, bits)
    assert packed.nbytes == -(-codes.size * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, codes.shape), codes)


def test_a_clipped_scale_has_the_least_squared_error_of_its_grid():
    weight = jnp.asarray(DRAW.standard_t(3, (64, 4)), jnp.float32)
    codes, scales = quantise(weight, Rounding(3, is_clipped=True))
    found = np.square(restore(codes, scales, Rounding(3)) - weight).sum(axis=0)
    plain = np.square(rounded(weight, Rounding(3)) - weight).sum(axis=0)
    assert (found <= plain).all() and found.sum() < 0.9 * plain.sum()


def test_a_gradient_passes_rounding_as_if_it_were_not_there():
    weight, factor = jnp.asarray(DRAW.standard_normal((2, 6, 4)), jnp.float32)
    value, grad = jax.value_and_grad(lambda w: jnp.sum(factor * rounded(w, Rounding(3))))(weight)
    np.testing.assert_array_equal(grad, factor)
    np.testing.assert_allclose(value, np.sum(factor * slow(np.asarray(weight), 3, -2, None)), rtol=1e-5)


@pytest.mark.parametrize("model", [SMALL, RICH], ids=["plain", "experts"])
def test_layers_read_what_the_tree_rounds_to_and_the_numbers_move(model):
    few = of_bits(model, weight_bits=4, table_bits=8, group_size=4)
    params = drawn(model)
    small = jax.tree.map(np.asarray, compress(few, params))
    read = np.asarray(apply(few, params, TOKENS))
    np.testing.assert_array_equal(read, np.asarray(apply(model, small, TOKENS)))
    assert np.abs(read - np.asarray(apply(model, params, TOKENS))).max() > 1e-3
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda a, b: bool((a != b).any()), params, small))
    moved = {path[-1].key for path, has_moved in leaves if has_moved}
    matrices = {"embedding", "query", "key", "value", "output", "up", "down"}
    assert moved == matrices | ({"positions", "head", "gate"} if model is RICH else set())


def test_the_gradient_of_a_rounded_model_is_that_of_the_dense_one_at_the_rounded_weights():
    few, params = of_bits(SMALL, weight_bits=3), drawn(SMALL)

    def loss(config, params):
        return jnp.mean(jax.nn.logsumexp(apply(config, params, TOKENS), axis=-1))

    found = jax.jit(jax.grad(lambda p: loss(few, p)))(params)
    at_rounded = jax.jit(jax.grad(lambda p: loss(SMALL, p)))(compress(few, params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, at_rounded)


def test_32_bits_are_no_compression_bit_for_bit():
    same = of_bits(SMALL, weight_bits=32, table_bits=32)
    params = drawn(SMALL)
    assert same.compression.is_none and rounding_of(same, "up") is None
    np.testing.assert_array_equal(apply(same, params, TOKENS), apply(SMALL, params, TOKENS))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weight_bits": 1}, "weight_bits is 1, expected 2 to 8, or 32"),
        ({"table_bits": 16}, "table_bits is 16, expected 2 to 8"),
        ({"weight_bits": 4, "number_format": "float8"}, "weight_bits is 4 with number_format float8"),
        ({"weight_bits": 4, "group_size": 3}, "group_size takes 3 inputs at a time and does not divide d_model 8"),
        ({"sparsity": 0.4, "pattern": "2:4"}, "pattern 2:4 with sparsity 0.4: 2 of 4 kept is a sparsity of 0.5"),
        ({"sparsity": 1.0}, "sparsity is 1.0, expected 0 <= sparsity < 1"),
    ],
)
def test_levels_that_do_not_exist_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        of_bits(SMALL, **fields)
