"""Small weights beside weights that stay: what they add, what they count, and what is left when they are merged."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.adapter import AdapterConfig
from kleiber.model.adapters.tree import merge, put_on
from kleiber.model.config import CompressionConfig, ExpertsConfig, ModelConfig
from kleiber.model.counts import num_params_total
from kleiber.model.functional import apply, init_params
from kleiber.model.selection import select, weight_sizes

PLAIN = ModelConfig(d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, vocab_size=12, seq_len=8, is_gated=True)
TOKENS = np.random.default_rng(0).integers(0, 12, (2, 8))
KINDS = {
    "lora": AdapterConfig("lora", rank=3, alpha=6.0),
    "lora on two": AdapterConfig("lora", rank=2, targets=("query", "down")),
    "dora": AdapterConfig("dora", rank=3, alpha=6.0, targets=("value", "up", "output")),
    "bottleneck": AdapterConfig("bottleneck", rank=3),
    "adalora": AdapterConfig("adalora", rank=3, alpha=6.0),
}


def moved(config, seed=0):
    """Weights of a config none of which is at its start."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda p: np.float32(p + 0.3 * draw.standard_normal(p.shape)), init_params(config, 0))


@pytest.mark.parametrize("name", KINDS)
def test_an_adapter_begins_as_if_it_were_not_there(name):
    config = replace(PLAIN, adapter=KINDS[name])
    start = moved(PLAIN)
    params = put_on(init_params(config, 3), start)
    np.testing.assert_allclose(apply(config, params, TOKENS), apply(PLAIN, start, TOKENS), rtol=1e-5, atol=1e-6)
    other = put_on(moved(config), start)
    assert np.abs(apply(config, other, TOKENS) - apply(PLAIN, start, TOKENS)).max() > 0.1


def by_hand(adapter, weights):
    """The matrix that an adapted one is worth, by the formulas of the papers in float64."""
    if adapter.kind == "adalora":
        weights = weights | {"lora_a": weights["left_vectors"] @ np.diag(weights["singular_values"]),
                             "lora_b": weights["right_vectors"]}  # fmt: skip
    base, a, b = (np.asarray(weights[name], np.float64) for name in ("base", "lora_a", "lora_b"))
    whole = base + adapter.alpha / adapter.rank * a @ b
    if adapter.kind == "dora":
        lengths = np.sqrt((base**2).sum(axis=0)) * weights["magnitude"]
        whole = whole / np.sqrt((whole**2).sum(axis=0)) * lengths
    return whole.astype(np.float32)


def replaced(adapter, tree):
    if not isinstance(tree, dict):
        return tree
    if "base" in tree:
        return by_hand(adapter, tree)
    return {name: replaced(adapter, each) for name, each in tree.items()}


@pytest.mark.parametrize("name", ["lora", "lora on two", "dora", "adalora"])
def test_logits_are_those_of_the_matrices_worked_out_by_hand_and_of_the_merged_tree(name):
    config = replace(PLAIN, adapter=KINDS[name])
    params = moved(config)
    logits = apply(config, params, TOKENS)
    np.testing.assert_allclose(logits, apply(PLAIN, replaced(KINDS[name], params), TOKENS), rtol=1e-4, atol=1e-4)
    plain, whole = merge(config, params)
    assert plain == PLAIN and jax.tree.structure(whole) == jax.tree.structure(init_params(PLAIN, 0))
    np.testing.assert_allclose(apply(plain, whole, TOKENS), logits, rtol=1e-5, atol=1e-5)


def test_a_bottleneck_adds_a_narrow_feed_forward_of_what_its_matrix_gives():
    config = replace(PLAIN, num_layers=1, adapter=AdapterConfig("bottleneck", rank=2, targets=("down",)))
    params, silent = moved(config), moved(config)
    down = params["blocks"]["00"]["feed_forward"]["down"]
    silent["blocks"]["00"]["feed_forward"]["down"] = down | {"widen": np.zeros_like(down["widen"])}
    widened = down | {"widen": 2 * down["widen"]}
    double = jax.tree.map(lambda leaf: leaf, params)
    double["blocks"]["00"]["feed_forward"]["down"] = widened
    # Without a norm's gain the residual stream is that of the plain layer plus what the bottleneck adds, linear in U.
    at_norm = [_residual(config, tree) for tree in (silent, params, double)]
    np.testing.assert_allclose(at_norm[2] - at_norm[0], 2 * (at_norm[1] - at_norm[0]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'bottleneck' to merge, expected lora, dora, adalora"):
        merge(config, params)


def _residual(config, params):
    """The residual stream behind the last layer, before the final norm."""
    from kleiber.model.functional import as_module
    from kleiber.model.layers.mask import Mask

    model = as_module(config, jax.tree.map(jnp.asarray, params))
    x = model.input(jnp.asarray(TOKENS))
    return model.blocks["00"](x, Mask(None, True), None, None)[0]


def test_merging_rounded_weights_gives_the_logits_of_the_rounded_weights_beside_the_adapter():
    config = replace(PLAIN, adapter=KINDS["lora"], compression=CompressionConfig(weight_bits=4))
    params = moved(config)
    plain, whole = merge(config, params)
    np.testing.assert_allclose(apply(plain, whole, TOKENS), apply(config, params, TOKENS), rtol=1e-5, atol=1e-5)
    assert np.abs(apply(plain, whole, TOKENS) - apply(*merge(replace(config, compression=CompressionConfig()), params),
                                                      TOKENS)).max() > 0.01  # fmt: skip


@pytest.mark.parametrize("is_scanned", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_counts_are_those_of_the_tree_with_an_adapter(name, is_scanned):
    config = replace(PLAIN, adapter=KINDS[name], has_scanned_layers=is_scanned)
    sizes = weight_sizes(config)
    assert sum(sizes.values()) == num_params_total(config)
    # By hand: query and output 16 x 16, key and value 16 x 8, up and gate 16 x 48, down 48 x 16; two layers.
    expected = {
        "lora": 2 * 3 * (32 + 24 + 24 + 32 + 64 + 64 + 64),
        "lora on two": 2 * 2 * (32 + 64),
        "dora": 2 * (3 * (24 + 64 + 32) + 8 + 48 + 16),
        "bottleneck": 2 * 3 * (32 + 32),
        "adalora": 2 * 3 * (32 + 24 + 24 + 32 + 64 + 64 + 64 + 7),
    }
    assert sum(sizes[path] for path in select(config, "adapter")) == expected[name]
    assert num_params_total(config) - num_params_total(PLAIN) == expected[name]


def test_scanned_layers_with_an_adapter_have_the_logits_of_unrolled_ones():
    config = replace(PLAIN, adapter=KINDS["dora"])
    params = moved(config)
    stacked = dict(params, blocks=jax.tree.map(lambda *x: np.stack(x), *params["blocks"].values()))
    scanned = apply(replace(config, has_scanned_layers=True), stacked, TOKENS)
    np.testing.assert_allclose(scanned, apply(config, params, TOKENS), rtol=1e-5, atol=1e-5)


def test_words_mean_weights_and_a_word_that_means_none_names_the_nearest():
    untied = replace(PLAIN, has_tied_head=False)
    assert select(untied, "head") == {"head"} and select(PLAIN, "head") == {"input/embedding"}
    assert select(PLAIN, "blocks/01/attention") == {f"blocks/01/attention/{n}" for n in ("query", "key", "value",
                                                                                       "output")}  # fmt: skip
    assert select(PLAIN, "*/down") == {"blocks/00/feed_forward/down", "blocks/01/feed_forward/down"}
    with pytest.raises(ValueError, match="'blocks/02' means no weight of this model; the nearest are blocks/0"):
        select(PLAIN, "all blocks/02")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"adapter": AdapterConfig(rank=8)}, "adapter.rank 8 is not below the 8 of the matrix key 16 x 8"),
        ({"adapter": AdapterConfig(rank=2), "experts": ExpertsConfig(4)}, "beside plain matrices"),
        (
            {"adapter": AdapterConfig("prompt", num_virtual_tokens=2), "positions": "learned"},
            "a table of 8 places that the text takes up",
        ),
        ({"adapter": AdapterConfig("prompt", num_virtual_tokens=8)}, "num_virtual_tokens 8 leaves no place for text"),
        ({"adapter": AdapterConfig(rank=2, targets=("gate",)), "is_gated": False}, "names no matrix of this shape"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        replace(PLAIN, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "prompt", "targets": ("up",)}, "kind prompt, which has no matrices"),
        ({"kind": "prompt", "num_virtual_tokens": 0}, "num_virtual_tokens is 0, expected at least 1"),
        ({"kind": "adalora", "rank": 2, "target_rank": 3}, "target_rank 3 is above adapter.rank 2"),
        ({"kind": "adalora", "budget_steps": (5, 5)}, r"budget_steps \(5, 5\), expected \(first, last\)"),
        ({"kind": "adalor"}, "did you mean 'adalora'"),
    ],
)
def test_fields_of_an_adapter_that_contradict_each_other_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        AdapterConfig(**fields)
