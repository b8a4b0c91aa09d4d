"""Masked language modelling with an encoder: just as many tokens hidden as asked, read from both sides, on any mesh."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_flops import compiled_flops

from kleiber.model import counts
from kleiber.model.config import ModelConfig
from kleiber.model.functional import abstract_params, init_params
from kleiber.model.functional import apply as eager_apply
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.config import EvalConfig, MaskingConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.run_data import HeldOut
from kleiber.train.evaluate import evaluate
from kleiber.train.objective.masked import hide
from kleiber.train.placement import initial_state, place_batches
from kleiber.train.state import Hyperparameters
from kleiber.train.step import compile_steps
from kleiber.train.update.optimizer import make_optimizer

apply = jax.jit(eager_apply, static_argnums=0)
MODEL = ModelConfig(d_model=16, num_layers=2, num_heads=2, vocab_size=32, seq_len=20, family="encoder")
CONFIG = TrainConfig(
    MODEL,
    OptimizerConfig(0.01),
    (1000,),
    batch_size=8,
    objective="masked",
    masking=MaskingConfig(0.3),
    steps_per_call=3,
)
TOKENS = np.random.default_rng(0).integers(1, 32, (8, 21)).astype(np.int32)
KEY = jax.random.key(1)


@pytest.mark.parametrize(("rate", "span", "hidden"), [(0.3, 1, 6), (0.15, 1, 3), (0.3, 3, 6), (0.5, 2, 10)])
def test_a_row_hides_just_as_many_tokens_in_whole_spans_and_keeps_the_others(rate, span, hidden):
    config = replace(CONFIG, masking=MaskingConfig(rate, span))
    batch = jax.tree.map(np.asarray, hide(config, Batch(TOKENS), KEY))
    is_hidden = batch.weights == 1
    np.testing.assert_array_equal(is_hidden.sum(axis=1), hidden)
    np.testing.assert_array_equal(batch.targets, TOKENS[:, :20])
    np.testing.assert_array_equal(batch.inputs, np.where(is_hidden, 0, TOKENS[:, :20]))
    for row in is_hidden:
        edges = np.flatnonzero(np.diff(np.pad(row.astype(int), 1)))
        assert all(length % span == 0 for length in edges[1::2] - edges[::2])


def test_every_step_hides_anew_and_measuring_always_the_same_whatever_the_batch():
    first, second = (np.asarray(hide(CONFIG, Batch(TOKENS), jax.random.key(n)).weights) for n in (1, 2))
    assert (first != second).any(axis=1).all()
    whole = np.asarray(hide(CONFIG, Batch(TOKENS), None).weights)
    np.testing.assert_array_equal(np.asarray(hide(CONFIG, Batch(TOKENS[5:2:-1]), None).weights), whole[5:2:-1])
    share = np.mean([np.asarray(hide(CONFIG, Batch(TOKENS), jax.random.key(n)).weights) for n in range(100)], axis=0)
    assert abs(share - 0.3).max() < 5 * (0.3 * 0.7 / 100) ** 0.5  # each place as often as another


def test_an_encoder_reads_both_sides_and_a_decoder_one():
    tokens = TOKENS[:1, :20]
    for family, seen in (("encoder", (0, 9, 11, 19)), ("decoder", (0, 9))):
        model, rng = replace(MODEL, family=family), np.random.default_rng(0)
        params = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(x.dtype), init_params(model, 0))  # noqa: B023
        before = apply(model, params, tokens)[0, 10]
        for place in (0, 9, 11, 19):
            changed = np.where(np.arange(20) == place, tokens % 31 + 1, tokens)
            moved = np.abs(apply(model, params, changed)[0, 10] - before).max()
            assert moved > 1e-4 if place in seen else moved == 0


def test_the_next_token_mix_adds_the_embedding_after_each_place_within_its_document():
    model = replace(MODEL, has_previous_token_mix=True, has_next_token_mix=True, num_layers=1)
    params = init_params(model, 0)
    params["blocks"] = jax.tree.map(np.zeros_like, params["blocks"])  # the stack adds nothing: hidden = norm(input)
    params["input"]["mix"][:], params["input"]["next_mix"][:] = 0.25, 2.0
    tokens, documents = np.array([[3, 4, 5, 6]]), np.array([[0, 0, 1, 1]])
    table = np.asarray(params["input"]["embedding"], np.float64)
    before, after = ([0, 3, 0, 5], [4, 0, 6, 0])  # none across the documents' border; 0 is none here
    mixed = table[tokens[0]] + 0.25 * np.where(np.array(before)[:, None] > 0, table[before], 0)
    mixed += 2.0 * np.where(np.array(after)[:, None] > 0, table[after], 0)
    normed = mixed / np.sqrt((mixed**2).mean(axis=1, keepdims=True))
    logits = np.asarray(apply(model, params, tokens, documents))[0]
    scale = logits[0, 0] / (normed @ table.T)[0, 0]
    np.testing.assert_allclose(logits, scale * normed @ table.T, rtol=1e-3)


def test_without_positions_an_encoder_treats_every_order_alike():
    model = replace(MODEL, positions="learned")
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(x.dtype), init_params(model, 0))
    params["input"]["positions"] = np.zeros_like(params["input"]["positions"])
    order = np.random.default_rng(1).permutation(20)
    straight, turned = apply(model, params, TOKENS[:, :20]), apply(model, params, TOKENS[:, :20][:, order])
    np.testing.assert_allclose(np.asarray(straight)[:, order], turned, atol=1e-5)


@functools.cache
def losses_of(config):
    """Returns the losses of three steps on the mesh of a config."""
    optimizer = make_optimizer(config.optimizer, config.model, abstract_params(config.model))
    mesh = make_mesh(config.mesh)
    hyper = Hyperparameters(jnp.float32(0.01), jnp.float32(0.1))
    with use_mesh(mesh):
        state = initial_state([config], optimizer, mesh)
        batches = place_batches(mesh, lambda i: Batch(TOKENS[i]), np.tile(np.arange(8), (3, 1)), 3, False)
        steps = compile_steps(config, optimizer)
        _, log = steps(state, hyper, batches, np.ones(3, np.float32), np.uint32(0), np.int32(3))
        return np.asarray(log.losses)


@pytest.mark.parametrize(
    "fields",
    [
        {"accumulation_steps": 4},
        {"mesh": MeshConfig(data=2), "accumulation_steps": 2},
        {"mesh": MeshConfig(fsdp=2)},
        {"mesh": MeshConfig(tensor=2)},
    ],
    ids=["micro-batches", "data", "fsdp", "tensor"],
)
def test_a_masked_run_in_parts_or_on_a_mesh_is_that_of_one_device(fields):
    mixed = replace(CONFIG, model=replace(MODEL, has_next_token_mix=True))
    whole = losses_of(replace(mixed, accumulation_steps=1))
    assert whole[0] != whole[1]
    np.testing.assert_allclose(losses_of(replace(mixed, **fields)), whole, rtol=1e-5)


def test_the_validation_loss_is_that_of_the_hidden_tokens_whatever_the_batch_size():
    params = init_params(MODEL, 0)
    data = HeldOut(validation=None, windows=TOKENS, groups=np.arange(8), segments=None)
    found = [evaluate(replace(CONFIG, evaluation=EvalConfig(batch_size=n)), params, data) for n in (3, 8)]
    batch = jax.tree.map(np.asarray, hide(CONFIG, Batch(TOKENS), None))
    logits = np.asarray(apply(MODEL, params, batch.inputs), np.float64)
    likelihoods = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    rows, places = np.nonzero(batch.weights)
    by_hand = -likelihoods[rows, places, TOKENS[rows, places]].mean()
    for evaluation in found:
        assert evaluation.loss == pytest.approx(by_hand, rel=1e-5)


def test_products_of_an_encoder_are_those_counted_over_the_full_square():
    model = ModelConfig(d_model=24, num_layers=2, num_heads=4, vocab_size=50, seq_len=40, family="encoder")
    sums_of_heads = 2 * 2 * 4 * 4 * 6 * 2  # as in test_counts.py
    assert compiled_flops(model).products == counts.flops_per_token_computed(model) + sums_of_heads
    assert counts.flops_per_token_causal(model) == counts.flops_per_token(model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "next_token"}, "set objective='masked'"),
        ({"model": replace(MODEL, family="decoder")}, "set objective='next_token'"),
        ({"masking": MaskingConfig(0.01)}, "hides 0 spans of 1 in a row of 20"),
        ({"masking": MaskingConfig(0.9, 5)}, "hides 4 spans of 5 in a row of 20 tokens, expected 1 to 2"),
        ({"mesh": MeshConfig(context=2)}, "set context=1"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_set(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **fields)


def test_a_decoder_is_not_shown_the_next_token():
    with pytest.raises(ValueError, match="use family='encoder'"):
        replace(MODEL, family="decoder", has_next_token_mix=True)
    with pytest.raises(ValueError, match="rate"):
        MaskingConfig(rate=1.0)
