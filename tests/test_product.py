"""Every weight meets its input in one file, so that what a weight is changes there alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.functional import apply, init_params
from kleiber.model.layers import product as product_module

PLAIN = ModelConfig(d_model=16, num_layers=2, num_heads=2, vocab_size=12, seq_len=8, parametrization="standard")
SHAPES = {
    "tied": PLAIN,
    "gated, untied, learned positions": dataclasses.replace(
        PLAIN, is_gated=True, has_tied_head=False, positions="learned"
    ),
    "experts": dataclasses.replace(
        PLAIN, is_gated=True, experts=ExpertsConfig(num_experts=4, num_shared=1, capacity_factor=4.0)
    ),
    "float8": dataclasses.replace(PLAIN, has_float8_products=True),
    "bfloat16": dataclasses.replace(PLAIN, compute_dtype="bfloat16"),
}
TOKENS = np.random.default_rng(0).integers(0, 12, (2, 8))


@pytest.mark.parametrize("name", SHAPES)
def test_a_weight_read_otherwise_in_product_is_another_weight_in_every_layer(name, monkeypatch):
    config, read = SHAPES[name], product_module.read
    params = jax.tree.map(jnp.asarray, init_params(config, 0))
    before = apply(config, params, TOKENS)
    shapes = []

    def doubled(weight, dtype):
        shapes.append(weight.shape)
        return 2 * read(weight, dtype)

    with monkeypatch.context() as patch:
        patch.setattr(product_module, "read", doubled)
        got = apply(config, params, TOKENS)
    leaves = [leaf.shape for leaf in jax.tree.leaves(params)]
    assert set(shapes) == set(leaves) and len(shapes) == len(leaves) + config.has_tied_head  # each once
    np.testing.assert_array_equal(got, apply(config, jax.tree.map(lambda leaf: 2 * leaf, params), TOKENS))
    assert np.abs(got - before).max() > 0.1
