"""The table of each parametrisation is true of the real weights and of what training does to them."""

import dataclasses

import jax
import numpy as np
import pytest

from kleiber.experiments.audit.coordinate_check import check_coordinates, family, named_activations, synthetic_tokens
from kleiber.model.adapter import AdapterConfig
from kleiber.model.config import CompressionConfig, ExpertsConfig, ModelConfig
from kleiber.model.functional import apply, init_params
from kleiber.model.image import ImageConfig
from kleiber.model.parametrization import (
    ROLE_OF_WEIGHT,
    attention_scale,
    epsilon_multipliers,
    learning_rate_multipliers,
    weight_decay_mask,
    weight_decay_multipliers,
)

BASE = ModelConfig(
    d_model=32,
    num_layers=2,
    num_heads=4,
    vocab_size=300,
    seq_len=200,
    has_tied_head=False,
    positions="learned",
    has_previous_token_mix=True,
    has_norm_gain=True,
    norm="layernorm",
    is_gated=True,
    d_ff=96,
)
WIDE = dataclasses.replace(BASE, d_model=128, d_ff=384, num_layers=8)  # four times the width, four times the depth

# Written out by hand from the papers and recipe: standard deviation of the initial weights at WIDE.
INIT_STD = {
    "standard": {"embedding": 0.02, "positions": 0.02, "query": 128**-0.5, "key": 128**-0.5, "up": 128**-0.5,
                 "output": 128**-0.5 / 4, "down": 384**-0.5 / 4, "head": 128**-0.5},
    "inverse_width": {"embedding": 128**-0.5, "positions": 128**-0.5, "query": 128**-0.5, "key": 128**-0.5,
                      "up": 128**-0.5, "output": 0, "down": 0, "head": 128**-0.5},
    "mup": {"embedding": 32**-0.5, "positions": 32**-0.5, "query": 0, "key": 128**-0.5, "up": 128**-0.5,
            "output": 0, "down": 0, "head": 0},
}  # fmt: skip
INIT_STD["completep"] = INIT_STD["mup"]
LEARNING_RATE = {
    "standard": {},
    "inverse_width": dict.fromkeys(
        ("embedding", "positions", "query", "key", "value", "up", "gate", "output", "down", "head"), 1 / 4
    ),
    "mup": dict.fromkeys(("query", "key", "value", "up", "gate", "output", "down"), 1 / 4),
}
LEARNING_RATE["completep"] = LEARNING_RATE["mup"]
EPSILON = {
    "standard": {},
    "inverse_width": {},
    "mup": dict.fromkeys(
        ("embedding", "positions", "head", "query", "key", "value", "up", "gate", "output", "down"), 1 / 4
    ),
    "completep": dict.fromkeys(("embedding", "positions", "head"), 1 / 4)
    | dict.fromkeys(("query", "key", "value", "up", "gate", "output", "down"), 1 / 16),
}
ALL = pytest.mark.parametrize("name", ["standard", "inverse_width", "mup", "completep"])


def named(tree):
    return [(path[-1].key, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@ALL
def test_initial_weights_have_the_tables_scales(name):
    for weight, values in named(init_params(dataclasses.replace(WIDE, parametrization=name), 0)):
        mean = {"gain": 1.0, "mix": 0.5}.get(weight, 0.0)
        expected = INIT_STD[name].get(weight, INIT_STD[name]["key"] if values.ndim > 1 else 0.0)
        # 16,384 draws or more: the standard deviation is known to 0.6 %, the mean to 0.8 % of it
        np.testing.assert_allclose(values.std(), expected, rtol=0.03, atol=1e-7, err_msg=weight)
        np.testing.assert_allclose(values.mean(), mean, atol=0.04 * expected + 1e-7, err_msg=weight)


@ALL
def test_learning_rates_epsilon_and_decay_follow_the_table(name):
    config = dataclasses.replace(WIDE, parametrization=name)
    params = init_params(config, 0)
    for weight, value in named(learning_rate_multipliers(config, params)):
        assert value == LEARNING_RATE[name].get(weight, 1.0), weight
    for weight, value in named(epsilon_multipliers(config, params)):
        assert value == EPSILON[name].get(weight, 1.0), weight
    decaying = {"query", "key", "value", "up", "gate", "output", "down", "head"}
    for weight, value in named(weight_decay_mask(config, params)):
        assert value is (weight in decaying), weight
    assert set(jax.tree.leaves(weight_decay_multipliers(config, params))) == {0.0, 1.0}


@ALL
def test_at_the_base_shape_every_multiplier_is_one(name):
    config = dataclasses.replace(BASE, parametrization=name)
    params = init_params(config, 0)
    for multipliers in (learning_rate_multipliers, epsilon_multipliers):
        assert set(jax.tree.leaves(multipliers(config, params))) == {1.0}
    assert attention_scale(config) == pytest.approx(8**-0.5)


def test_attention_scale_falls_as_one_over_head_width_in_mup_and_its_root_otherwise():
    wide = {name: dataclasses.replace(WIDE, parametrization=name) for name in ("standard", "mup")}
    assert attention_scale(wide["standard"]) == pytest.approx(32**-0.5)
    assert attention_scale(wide["mup"]) == pytest.approx(8**0.5 / 32)
    more_heads = dataclasses.replace(wide["mup"], num_heads=16, base_num_heads=4)
    assert attention_scale(more_heads) == pytest.approx(8**-0.5)


def test_every_weight_of_the_tree_has_a_role_and_an_unknown_one_is_refused():
    mixed = dataclasses.replace(WIDE, experts=ExpertsConfig(num_experts=2))
    encoder = dataclasses.replace(WIDE, family="encoder", has_next_token_mix=True)
    kinds = ("dora", "bottleneck", "adalora")
    adapted = [dataclasses.replace(BASE, adapter=AdapterConfig(kind, rank=2)) for kind in kinds]
    adapted.append(dataclasses.replace(BASE, positions="rotary", adapter=AdapterConfig("prompt")))
    gained = dataclasses.replace(BASE, has_qk_norm=True, has_qk_norm_gain=True)
    factored = dataclasses.replace(BASE, compression=CompressionConfig(rank_share=0.5))
    images = [
        ModelConfig(16, 3, num_heads=2, vocab_size=10, seq_len=1, has_tied_head=False, family=name, image=ImageConfig())
        for name in ("vision_transformer", "residual_network")
    ]
    models = (mixed, encoder, gained, factored, *images, *adapted)
    weights = [weight for each in models for weight in named(init_params(each, 0))]
    assert {weight for weight, _ in weights} - {"base", "right"} == set(ROLE_OF_WEIGHT)
    with pytest.raises(ValueError, match="'novel'"):
        learning_rate_multipliers(WIDE, {"novel": np.zeros(3)})


def test_mup_and_inverse_width_are_one_model_at_the_base_shape_when_tied_but_for_the_queries():
    tied = dataclasses.replace(BASE, has_tied_head=True)
    one, two = (dataclasses.replace(tied, parametrization=name) for name in ("mup", "inverse_width"))
    params = jax.tree.map(lambda x: x + 0.1, init_params(two, 0))
    tokens = np.arange(200, dtype=np.int32)[None]
    jitted = jax.jit(apply, static_argnums=0)
    np.testing.assert_allclose(jitted(one, params, tokens), jitted(two, params, tokens), atol=1e-4)


@pytest.mark.parametrize(("name", "factor"), [("standard", 1), ("inverse_width", 0.5), ("mup", 1), ("completep", 0.25)])
def test_each_block_adds_its_output_times_the_branch_multiplier(name, factor):
    config = dataclasses.replace(WIDE, parametrization=name, attention_blocks=1)
    params = jax.tree.map(lambda x: x + np.float32(0.01), init_params(config, 0))
    seen = jax.jit(named_activations, static_argnums=0)(config, params, np.arange(20, dtype=np.int32)[None])
    added = seen["residual 1"] - seen["residual 0"]
    expected = factor * (seen["attention_output 1"] + seen["feed_forward_output 1"])
    np.testing.assert_allclose(added, expected, atol=1e-4 * float(np.abs(expected).max()))


def test_named_activations_are_those_of_the_forward_pass():
    config = dataclasses.replace(BASE, attention_blocks=1)
    params, tokens = init_params(config, 0), np.arange(12, dtype=np.int32)[None]
    seen = jax.jit(named_activations, static_argnums=0)(config, params, tokens)
    np.testing.assert_allclose(seen["logits"], jax.jit(apply, static_argnums=0)(config, params, tokens), atol=1e-5)
    layers = (
        "query",
        "key",
        "value",
        "up",
        "gate",
        "scores",
        "attention_output",
        "feed_forward_hidden",
        "feed_forward_output",
        "residual",
    )
    assert set(seen) == {"embedded", "final", "logits"} | {f"{name} {layer}" for name in layers for layer in (0, 1)}


def test_synthetic_tokens_repeat_and_half_of_them_follow_from_the_one_before():
    tokens = synthetic_tokens(1, 50, 100, 64)
    np.testing.assert_array_equal(tokens, synthetic_tokens(1, 50, 100, 64))
    followers = {}
    for before, after in zip(tokens[..., :-1].ravel(), tokens[..., 1:].ravel(), strict=True):
        followers.setdefault(int(before), []).append(int(after))
    most_common = [max(followers[t].count(a) for a in followers[t]) / len(followers[t]) for t in (0, 1, 2)]
    assert all(0.4 < share < 0.75 for share in most_common)


def test_mup_passes_a_short_coordinate_check_over_width_where_standard_fails():
    """Two widths, one layer, one seed, three steps: a short form of `kleiber check`, so the tolerance is wider."""
    worst = {}
    for name in ("mup", "standard"):
        shapes = [
            dataclasses.replace(shape, num_layers=1, base_num_layers=1) for shape in family(name, "d_model", (64, 512))
        ]
        worst[name] = abs(check_coordinates(shapes, num_steps=3, seeds=(0,)).worst.slope)
    assert worst["mup"] < 0.15  # one seed: standard error .05
    assert worst["standard"] > 0.4


def test_what_has_not_moved_in_so_few_steps_has_no_slope_and_is_not_judged():
    found = check_coordinates(family("mup", "d_model", (16, 32)), num_steps=1, seeds=(0,))
    still = [slope for slope in found.slopes if slope.slope_of_step == (None,)]
    assert still and all((each.slope, each.is_judged, each.rms) == (0.0, False, (0.0, 0.0)) for each in still)
    assert all(np.isfinite(each.slope) for each in found.slopes)
    with pytest.raises(ValueError, match="0 steps of 1 seeds, expected at least 1 of each"):
        check_coordinates(family("mup", "d_model", (16, 32)), num_steps=0, seeds=(0,))


def test_sizes_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="increasing"):
        check_coordinates(family("mup", "d_model", (64, 64)))


def test_odd_depths_have_no_block_halfway_and_are_refused():
    with pytest.raises(ValueError, match="even depths"):
        check_coordinates(family("completep", "num_layers", (2, 5)), "num_layers")
