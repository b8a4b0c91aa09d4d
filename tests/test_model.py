"""The Transformer against a slow clear version, and the claims that hold for any weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.config import ModelConfig
from kleiber.model.families.decoder import drop
from kleiber.model.functional import abstract_params, head, init_params, init_params_on_device
from kleiber.model.functional import apply as eager_apply
from kleiber.model.functional import apply_hidden as eager_apply_hidden
from kleiber.model.layers.attention import attend, rotate
from kleiber.model.layers.feed_forward import activate
from kleiber.model.layers.mask import Mask

# Compiled once a shape (eagerly each of hundreds of small operations would be compiled by itself) and with little
# optimisation: most of these programs run once.
QUICK = {"xla_backend_optimization_level": 0}
apply = jax.jit(eager_apply, static_argnums=0, compiler_options=QUICK)
apply_hidden = jax.jit(lambda *a: eager_apply_hidden(*a)[0], static_argnums=0, compiler_options=QUICK)

SMALL = ModelConfig(d_model=16, num_layers=2, num_heads=4, vocab_size=11, seq_len=12, has_previous_token_mix=True)
EXACT = 2e-5  # float32 sums of up to a few hundred terms of order one, in another order


def random_params(config: ModelConfig, seed: int = 0):
    """Initial weights plus noise: many start at zero or one, where a wrong product would go unnoticed."""
    rng = np.random.default_rng(seed)
    params = init_params(config, seed)
    return jax.tree.map(lambda x: (x + 0.3 * rng.standard_normal(x.shape)).astype(x.dtype), params)


def random_tokens(config: ModelConfig, batch_size: int = 2, seed: int = 1):
    shape = (batch_size, config.seq_len)
    return np.random.default_rng(seed).integers(0, config.vocab_size, shape, dtype=np.int32)


def slow_logits(config: ModelConfig, params, tokens):
    """The quickstart's shape for one sequence in NumPy, one head and one query at a time."""

    def norm(x):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)

    def turn(x, position):
        half = len(x) // 2
        angle = position / 10_000 ** (np.arange(half) / half)
        complex_x = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
        return np.concatenate([complex_x.real, complex_x.imag])

    table = np.float64(params["input"]["embedding"])
    x = table[tokens] * config.d_model**0.5
    x[1:] = x[1:] + np.float64(params["input"]["mix"]) * x[:-1]
    for layer in range(config.num_layers):
        weights = jax.tree.map(np.float64, params["blocks"][f"{layer:02d}"])
        h = norm(x)
        queries, keys, values = (h @ weights["attention"][name] for name in ("query", "key", "value"))
        mixed = np.zeros_like(queries)
        for n in range(config.num_heads):
            part = slice(n * config.d_head, (n + 1) * config.d_head)
            for t in range(len(tokens)):
                q = turn(queries[t, part], t)
                scores = np.array([q @ turn(keys[s, part], s) for s in range(t + 1)]) / config.d_head**0.5
                weight = np.exp(scores) / np.exp(scores).sum()
                mixed[t, part] = weight @ values[: t + 1, part]
        x = x + mixed @ weights["attention"]["output"]
        up = np.maximum(norm(x) @ weights["feed_forward"]["up"], 0) ** 2
        x = x + up @ weights["feed_forward"]["down"]
    return norm(x) @ table.T


def test_logits_equal_a_slow_clear_version():
    params, tokens = random_params(SMALL), random_tokens(SMALL)
    logits = apply(SMALL, params, tokens)
    for row in range(2):
        expected = slow_logits(SMALL, params, tokens[row])
        np.testing.assert_allclose(logits[row], expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("num_chunks", [1, 5])
def test_no_gradient_flows_from_a_position_to_logits_before_it(num_chunks):
    config = dataclasses.replace(SMALL, positions="learned", attention_blocks=num_chunks)
    params, tokens = random_params(config), random_tokens(config, 1)

    def logits_of(positions):
        changed = params | {"input": params["input"] | {"positions": positions}}
        return jnp.sum(eager_apply(config, changed, tokens)[0] ** 2, axis=-1)

    jacobian_TS = np.abs(jax.jit(jax.jacobian(logits_of), compiler_options=QUICK)(params["input"]["positions"])).sum(-1)
    is_past_TS = np.tril(np.ones((12, 12), bool))
    assert np.all(jacobian_TS[~is_past_TS] == 0)
    assert np.all(jacobian_TS[is_past_TS] > 0)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_documents_packed_in_one_row_give_the_logits_they_give_alone(positions):
    config = dataclasses.replace(SMALL, positions=positions)
    params, tokens = random_params(config), random_tokens(config, 1)
    segments = np.array([[0] * 5 + [1] * 7], np.int32)
    packed = apply(config, params, tokens, segments)
    alone = jnp.concatenate([apply(config, params, tokens[:, :5]), apply(config, params, tokens[:, 5:])], axis=1)
    np.testing.assert_allclose(packed, alone, atol=EXACT * float(jnp.abs(alone).max()) * 10)
    assert np.abs(packed[:, 5:] - apply(config, params, tokens)[:, 5:]).max() > 0.1


def test_grouped_queries_equal_multi_head_with_repeated_keys_and_values():
    grouped = dataclasses.replace(SMALL, num_kv_heads=2)
    params, tokens = random_params(grouped), random_tokens(grouped)

    def repeat(path, x):
        if path[-1].key in ("key", "value"):
            return x.reshape(16, 2, 1, 4).repeat(2, axis=2).reshape(16, 16)
        return x

    repeated = jax.tree_util.tree_map_with_path(repeat, params)
    np.testing.assert_allclose(apply(grouped, params, tokens), apply(SMALL, repeated, tokens), atol=1e-4)


def test_rotated_products_depend_on_distance_alone():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 8)).astype(np.float32)
    rows = rotate(jnp.broadcast_to(jnp.stack([q, k])[:, None, None], (2, 20, 1, 8)))[:, :, 0]
    products = np.asarray(rows[0] @ rows[1].T)
    for distance in (-7, 0, 3, 12):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert np.abs(np.diff([np.diagonal(products, d)[0] for d in (-7, 0, 3, 12)])).min() > 1e-3
    np.testing.assert_allclose(products[0, 0], q @ k, rtol=1e-5)


@pytest.mark.parametrize("num_chunks", [2, 5, 13])
def test_chunks_of_queries_give_the_numbers_and_gradients_of_the_full_square(num_chunks):
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 13, 2, 6)).astype(np.float32)
    segments = np.sort(rng.integers(0, 3, (2, 13)), axis=1)

    def total(num_chunks, *qkv):
        out = attend(*qkv, 0.5, Mask(segments), num_chunks)
        return jnp.sum(jnp.sin(out)), out

    step = jax.jit(jax.value_and_grad(total, (1, 2, 3), has_aux=True), static_argnums=0, compiler_options=QUICK)
    (_, full), full_gradients = step(1, q, k, v)
    (_, cut), cut_gradients = step(num_chunks, q, k, v)
    np.testing.assert_allclose(cut, full, atol=EXACT)
    for one, other in zip(full_gradients, cut_gradients, strict=True):
        np.testing.assert_allclose(other, one, atol=EXACT)


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.01)])
def test_attention_and_its_derivatives_are_those_of_a_plain_softmax(dtype, tolerance, is_whole, monkeypatch):
    monkeypatch.setattr("kleiber.model.layers.attention.weights_are_whole", lambda: is_whole)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 13, heads, 6)), dtype) for heads in (4, 2, 2))
    segments = np.sort(rng.integers(0, 3, (2, 13)), axis=1)
    mask = np.tril(np.ones((13, 13), bool)) & (segments[:, :, None] == segments[:, None])

    def plain(q, k, v):  # in float32, a key and a value of its own for each query head
        q, k, v = q.astype("float32"), *(jnp.repeat(x.astype("float32"), 2, axis=2) for x in (k, v))
        scores = jnp.where(mask[:, None], 0.5 * jnp.einsum("btnh,bsnh->bnts", q, k), -jnp.inf)
        return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores), v)

    out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, 0.5, Mask(segments)), q, k, v)
    slope = jnp.asarray(rng.standard_normal(out.shape), dtype)
    expected, pull_plain = jax.vjp(plain, q, k, v)
    for one, other in zip((out, *pull(slope)), (expected, *pull_plain(slope.astype("float32"))), strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.astype("float32"), other, atol=tolerance * float(jnp.abs(other).max()))


def test_scores_far_apart_stay_finite():
    q = jnp.full((1, 4, 1, 2), 100.0)
    k = jnp.asarray([[[[-100.0, 0]], [[100.0, 0]], [[0, 0]], [[1e3, 0]]]])
    step = jax.jit(lambda q: jax.vjp(lambda q: attend(q, k, k, 1.0, Mask()), q), compiler_options=QUICK)
    out, pull = step(q)
    assert np.all(np.isfinite(pull(jnp.ones_like(out))[0]))
    np.testing.assert_allclose(out[0, :, 0, 0], [-100, 100, 100, 1000])


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        ({"has_scanned_layers": True}, {"dropout": 0.3, "num_kv_heads": 1, "has_norm_gain": True}),
        ({"has_scanned_layers": True, "has_remat": True}, {}),
    ],
)
def test_scan_and_remat_give_the_numbers_and_gradients_of_the_plain_model(changes, others):
    plain = dataclasses.replace(SMALL, parametrization="standard", **others)
    changed = dataclasses.replace(plain, **changes)
    tokens, key = random_tokens(plain), jax.random.key(3)

    def loss(config, params):
        return jnp.sum(jnp.sin(eager_apply(config, params, tokens, None, key)))

    step = jax.jit(jax.value_and_grad(loss, 1), static_argnums=0, compiler_options=QUICK)
    value, gradients = step(plain, init_params(plain, 5))
    other_value, other_gradients = step(changed, init_params(changed, 5))
    if changed.has_scanned_layers:
        blocks = gradients["blocks"].values()
        gradients = gradients | {"blocks": jax.tree.map(lambda *layers: jnp.stack(layers), *blocks)}
    np.testing.assert_allclose(other_value, value, rtol=1e-5, atol=1e-4)
    for (path, one), (_, two) in zip(
        jax.tree_util.tree_leaves_with_path(gradients),
        jax.tree_util.tree_leaves_with_path(other_gradients),
        strict=True,
    ):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4, err_msg=str(path))


def test_renaming_tokens_renames_logits():
    params, tokens = random_params(SMALL), random_tokens(SMALL)
    new_name = np.random.default_rng(0).permutation(11)
    table = np.empty_like(params["input"]["embedding"])
    table[new_name] = params["input"]["embedding"]
    renamed = params | {"input": params["input"] | {"embedding": table}}
    logits = apply(SMALL, renamed, new_name[tokens])
    np.testing.assert_allclose(logits[..., new_name], apply(SMALL, params, tokens), atol=1e-4)


def test_without_positions_or_mix_the_order_of_the_past_does_not_matter_in_one_layer():
    config = dataclasses.replace(SMALL, positions="learned", has_previous_token_mix=False, num_layers=1)
    params, tokens = random_params(config), random_tokens(config, 1)
    params["input"]["positions"] = np.zeros_like(params["input"]["positions"])
    shuffled = tokens.copy()
    shuffled[0, :-1] = np.random.default_rng(0).permutation(tokens[0, :-1])
    assert not np.array_equal(shuffled, tokens)
    np.testing.assert_allclose(apply(config, params, shuffled)[0, -1], apply(config, params, tokens)[0, -1], atol=1e-4)


def test_layernorm_subtracts_the_mean_and_applies_gain_and_bias():
    config = dataclasses.replace(SMALL, num_layers=1, norm="layernorm", has_norm_gain=True, has_tied_head=False)
    params = random_params(config)
    silent = jax.tree.map(np.zeros_like, params["blocks"])  # blocks that add nothing
    params = params | {"blocks": silent, "input": params["input"] | {"mix": np.zeros(16, np.float32)}}
    tokens = random_tokens(config, 1)
    x = np.float64(params["input"]["embedding"])[tokens[0]] * 4.0
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    expected = x * params["final_norm"]["gain"] + params["final_norm"]["bias"]
    np.testing.assert_allclose(apply_hidden(config, params, tokens)[0], expected, atol=1e-3)
    np.testing.assert_allclose(apply(config, params, tokens)[0], expected @ params["head"], atol=1e-2)


def test_activations_have_their_known_values():
    x = jnp.asarray([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(activate(x, "relu_squared"), [0, 0, 9])
    np.testing.assert_allclose(activate(x, "silu"), [-2 / (1 + np.e**2), 0, 3 / (1 + np.e**-3)], rtol=1e-6)
    np.testing.assert_allclose(activate(x, "gelu"), [-0.0455003, 0, 2.9959503], atol=5e-4)  # x Phi(x) of a table


def test_gated_feed_forward_multiplies_two_projections():
    changes = {"num_layers": 1, "base_num_layers": 1, "has_previous_token_mix": False}
    config = dataclasses.replace(SMALL, is_gated=True, activation="silu", **changes)
    params, tokens = random_params(config), random_tokens(config, 1)
    params["blocks"]["00"]["attention"]["output"] *= 0
    weights = params["blocks"]["00"]["feed_forward"]
    x = np.float64(params["input"]["embedding"])[tokens[0]] * 4.0
    h = x / np.sqrt((x * x).mean(-1, keepdims=True))
    gate = h @ weights["gate"]
    x = x + (gate / (1 + np.exp(-gate)) * (h @ weights["up"])) @ weights["down"]
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True))
    np.testing.assert_allclose(apply_hidden(config, params, tokens)[0], expected, atol=1e-3)


def test_qk_norm_makes_logits_blind_to_the_scale_of_queries():
    config = dataclasses.replace(SMALL, has_qk_norm=True)
    params, tokens = random_params(config), random_tokens(config)
    scaled = jax.tree_util.tree_map_with_path(lambda path, x: x * (7 if path[-1].key == "query" else 1), params)
    np.testing.assert_allclose(apply(config, scaled, tokens), apply(config, params, tokens), atol=1e-3)
    assert np.abs(apply(SMALL, scaled, tokens) - apply(SMALL, params, tokens)).max() > 0.1


def test_bfloat16_policy_computes_in_bfloat16_and_keeps_parameters_logits_and_gradients_in_float32():
    config = dataclasses.replace(SMALL, compute_dtype="bfloat16")
    params, tokens = random_params(config), random_tokens(config)
    assert apply_hidden(config, params, tokens).dtype == jnp.bfloat16
    logits = apply(config, params, tokens)
    assert logits.dtype == jnp.float32
    gradients = jax.eval_shape(jax.grad(lambda params: eager_apply(config, params, tokens).sum()), params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))
    exact = apply(SMALL, params, tokens)
    error = jnp.sqrt(jnp.mean((logits - exact) ** 2) / jnp.mean(exact**2))
    assert 1e-4 < error < 0.05  # eight bits of mantissa are 0.4 % a rounding, about twenty roundings deep
    stored = dataclasses.replace(config, param_dtype="bfloat16")
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(init_params(stored, 0)))


def test_dropout_needs_a_key_and_drops_the_stated_share_without_bias():
    config = dataclasses.replace(SMALL, dropout=0.25, num_layers=1)
    params, tokens = random_params(config), random_tokens(config)
    without = dataclasses.replace(config, dropout=0.0)
    np.testing.assert_array_equal(apply(config, params, tokens), apply(without, params, tokens))
    one, two = (apply(config, params, tokens, None, jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(one - two).max() > 0.1
    dropped = drop(jnp.ones(40_000), 0.25, jax.random.key(0))
    assert abs(float(jnp.mean(dropped == 0)) - 0.25) < 0.01  # four standard errors of a share of 40,000
    assert abs(float(dropped.mean()) - 1.0) < 0.012


def test_head_on_slices_of_time_gives_the_logits_of_the_whole():
    params, tokens = random_params(SMALL), random_tokens(SMALL)
    x = apply_hidden(SMALL, params, tokens)
    sliced = jnp.concatenate([head(SMALL, params, x[:, :7]), head(SMALL, params, x[:, 7:])], axis=1)
    np.testing.assert_allclose(sliced, apply(SMALL, params, tokens), atol=1e-4)


def test_members_of_a_population_give_the_logits_they_give_alone():
    members = [random_params(SMALL, seed) for seed in range(3)]
    tokens = random_tokens(SMALL)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    together = jax.jit(jax.vmap(lambda params: eager_apply(SMALL, params, tokens)), compiler_options=QUICK)(stacked)
    for member, logits in zip(members, together, strict=True):
        np.testing.assert_allclose(logits, apply(SMALL, member, tokens), atol=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, again, other = init_params(SMALL, 3), init_params(SMALL, 3), init_params(SMALL, 4)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert np.abs(one["input"]["embedding"] - other["input"]["embedding"]).max() > 0.1
    query, key = (one["blocks"]["00"]["attention"][name] for name in ("query", "key"))
    assert np.abs(query - key).max() > 0.1  # streams of different names differ


def test_weights_drawn_on_the_device_have_the_declared_shapes_and_scales():
    config = dataclasses.replace(SMALL, d_model=64, vocab_size=256, has_scanned_layers=True)
    drawn = jax.jit(lambda key: init_params_on_device(config, key))(jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(
        lambda x: (x.shape, x.dtype), abstract_params(config)
    )
    for one, two in zip(jax.tree.leaves(drawn), jax.tree.leaves(init_params(config, 0)), strict=True):
        np.testing.assert_allclose(jnp.std(one), np.std(two), rtol=0.03, atol=1e-6)


def test_more_tokens_than_learned_positions_are_refused():
    config = dataclasses.replace(SMALL, positions="learned")
    with pytest.raises(ValueError, match="13 tokens"):
        apply(config, init_params(config, 0), np.zeros((1, 13), np.int32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 3}, "does not divide d_model 16; try"),
        ({"num_heads": 16}, "even d_head"),
        ({"num_kv_heads": 3}, "num_kv_heads 3"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"attention_blocks": 0}, "attention_blocks is 0"),
    ],
)
def test_impossible_shapes_are_refused_with_the_values(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **fields)
