"""Mixture of experts: equal to the dense block where it must be, capacity counted, losses that say what they should."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_flops import compiled_flops
from flax import nnx

from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.counts import flops_per_token_computed, num_params_active, num_params_total
from kleiber.model.functional import abstract_params, init_params
from kleiber.model.functional import apply_hidden as eager_apply_hidden
from kleiber.model.layers.experts import Experts
from kleiber.model.layers.feed_forward import activate

# Compiled once a shape: eagerly each of hundreds of small operations would be compiled by itself.
apply_hidden = jax.jit(eager_apply_hidden, static_argnums=0)
through = nnx.jit(lambda module, x: module(x))
DENSE = ModelConfig(d_model=16, num_layers=2, num_heads=2, vocab_size=12, seq_len=8, parametrization="standard")


def with_experts(base=DENSE, **settings):
    return dataclasses.replace(base, experts=ExpertsConfig(**settings))


def layer(config, seed=0):
    return Experts(config, nnx.Rngs(seed))


def slow_experts(module, x_SD, capacity):
    """One group, token by token, in plain NumPy: who comes first takes the places, first choices before second."""
    experts, config = module.experts, module.config
    router, up, down = (np.asarray(w[...], np.float64) for w in (module.router, module.up, module.down))
    scores = x_SD @ router
    probabilities = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    order = np.argsort(-probabilities, axis=-1)[:, : experts.num_active]
    places = np.zeros(experts.num_experts, int)
    out, dropped = np.zeros_like(x_SD), 0
    for rank in range(experts.num_active):
        for token in range(len(x_SD)):
            expert = order[token, rank]
            places[expert] += 1
            if places[expert] > capacity:
                dropped += 1
                continue
            weight = probabilities[token, expert] / probabilities[token, order[token]].sum()
            hidden = np.asarray(activate(jnp.asarray(x_SD[token] @ up[expert]), config.activation))
            out[token] += weight * hidden @ down[expert]
    return out, dropped / (len(x_SD) * experts.num_active)


@pytest.mark.parametrize("is_gated", [False, True])
def test_a_mixture_of_one_expert_is_the_dense_block(is_gated):
    dense = dataclasses.replace(DENSE, is_gated=is_gated)
    one = with_experts(dense, num_experts=1, num_active=1, capacity_factor=1.0)
    params = init_params(dense, 0)
    mixed = init_params(one, 0)
    for name, block in params["blocks"].items():
        for weight, value in block["feed_forward"].items():
            mixed["blocks"][name]["feed_forward"][weight] = value[None]
        for part in ("attention",):
            mixed["blocks"][name][part] = block[part]
    mixed["input"] = params["input"]
    tokens = np.random.default_rng(0).integers(0, 12, (3, 8))
    expected = apply_hidden(dense, params, tokens)[0]
    got, routing = apply_hidden(one, mixed, tokens)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert float(routing.dropped) == 0.0 and float(routing.balance_loss) == pytest.approx(1.0)


# By hand: 16 tokens choose `active` of 4 experts each, an even share of 4 * active; 4.4 places are rounded up.
@pytest.mark.parametrize(
    ("active", "factor", "capacity"), [(1, 1.0, 4), (1, 1.1, 5), (2, 1.0, 8), (2, 0.5, 4), (3, 4.0, 48)]
)
def test_tokens_go_where_a_slow_queue_sends_them(active, factor, capacity):
    module = layer(with_experts(num_experts=4, num_active=active, capacity_factor=factor))
    x = np.random.default_rng(1).normal(size=(1, 16, 16))
    y, routing = through(module, jnp.asarray(x, jnp.float32))
    expected, dropped = slow_experts(module, x[0], capacity)
    np.testing.assert_allclose(y[0], expected, atol=2e-5)
    assert float(routing.dropped) == pytest.approx(dropped, abs=1e-6)
    assert (dropped > 0) == (factor < 4)


def test_groups_compete_apart():
    whole = layer(with_experts(num_experts=4, num_active=2, capacity_factor=0.5, group_size=4))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 16, 16)), jnp.float32)
    apart = jnp.concatenate([through(whole, x[:, start : start + 4])[0] for start in range(0, 16, 4)], axis=1)
    np.testing.assert_allclose(through(whole, x)[0], apart, atol=1e-6)


def test_all_tokens_on_one_expert_overflow_its_places():
    module = layer(with_experts(num_experts=4, num_active=1, capacity_factor=1.0))
    module.router[...] = jnp.zeros((16, 4)).at[:, 2].set(1.0)
    _, routing = through(module, jnp.ones((1, 16, 16)))
    assert float(routing.dropped) == 0.75  # 16 tokens, ceil(16 / 4) = 4 places


def test_the_balance_loss_is_one_when_even_and_grows_to_the_number_of_experts_when_skewed():
    module = layer(with_experts(num_experts=4, num_active=1))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(4, 64, 16)), jnp.float32)
    module.router[...] = jnp.zeros((16, 4))
    assert float(through(module, x)[1].balance_loss) == pytest.approx(1.0)
    module.router[...] = jnp.zeros((16, 4)).at[:, 0].set(50.0)
    assert float(through(module, jnp.abs(x))[1].balance_loss) == pytest.approx(4.0)


def test_following_the_balance_loss_evens_out_a_skewed_router():
    module = layer(with_experts(num_experts=4, num_active=1))
    x = jnp.abs(jnp.asarray(np.random.default_rng(4).normal(size=(4, 64, 16)), jnp.float32)) + jnp.eye(64, 16)
    graph, state = nnx.split(module)
    state["router"][...] = state["router"][...].at[:, 0].add(0.3)

    @jax.jit
    def step(state):
        loss, grads = jax.value_and_grad(lambda s: nnx.merge(graph, s)(x)[1].balance_loss)(state)
        return loss, jax.tree.map(lambda p, g: p - 0.1 * g, state, grads)

    before = float(step(state)[0])
    for _ in range(100):
        loss, state = step(state)
    assert before > 2.0 and float(loss) < 1.3
    assert float(through(nnx.merge(graph, state), x)[1].dropped) < 0.3


def test_counts_are_the_real_tree_and_the_compilers_products():
    config = with_experts(num_experts=4, num_active=2, num_shared=1, capacity_factor=1.0)
    config = dataclasses.replace(config, is_gated=True, attention_blocks=1, has_tied_head=False)
    sizes = {path: leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config))}
    assert num_params_total(config) == sum(sizes.values())
    # By hand: two of four experts idle, each 3 matrices of 16 x d_ff, in two layers.
    assert num_params_active(config) == num_params_total(config) - 2 * 2 * 3 * 16 * config.feed_forward_width
    # Summing each token's experts is a small product, 2 A D a token and layer; so is the gradient of its weights.
    collecting = 2 * 2 * 2 * config.d_model * config.num_layers
    # So are the sums over the columns of each head, forward and backward: 2 N D.
    heads = 2 * 2 * config.num_heads * config.num_heads * config.d_head * config.num_layers
    counted = flops_per_token_computed(config) + collecting + heads
    assert compiled_flops(config, 4).products == pytest.approx(counted, rel=1e-6)


def test_experts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"3 active of 2"):
        ExpertsConfig(num_experts=2, num_active=3)
    with pytest.raises(ValueError, match=r"group_size 5 does not divide the 8 positions"):
        layer(with_experts(num_experts=2, group_size=5))(jnp.zeros((1, 8, 16)))
