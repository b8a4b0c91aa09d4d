"""Objectives: targets that weigh unequally count as they weigh, however a batch is cut; and names that nobody knows."""

import functools
import typing
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.functional import apply, init_params
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.checkpoints.identity import run_identity
from kleiber.train.config import Objective, OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.run_data import HeldOut
from kleiber.train.evaluate import evaluate
from kleiber.train.gradients import gradients
from kleiber.train.objective.table import OBJECTIVES
from kleiber.train.placement import place_batches

MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=32, seq_len=8, parametrization="standard")
CONFIG = TrainConfig(MODEL, OptimizerConfig(0.01), (1000,), batch_size=8, z_loss=0.01)
DRAW = np.random.default_rng(0)
TOKENS = DRAW.integers(0, 32, (8, 9)).astype(np.int32)
# Rows and positions of very unequal weight; all of the second and sixth row, one micro-batch of four, weigh nothing.
WEIGHTS = (DRAW.exponential(size=(8, 8)) * np.array([1, 0, 5, 0.1, 2, 0, 1, 3])[:, None]).astype(np.float32)
PARAMS = jax.tree.map(jnp.asarray, init_params(replace(MODEL, has_tied_head=False), 0))
UNTIED = replace(CONFIG, model=replace(MODEL, has_tied_head=False))
TEXT = SimpleNamespace(bytes_per_token=1.0)


def by_hand(params):
    """The weighted mean of cross entropy plus z_loss times the squared log-normaliser, over all targets at once."""
    logits = apply(UNTIED.model, params, TOKENS[:, :-1])
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    losses = normalizer - jnp.take_along_axis(logits, TOKENS[:, 1:, None], axis=-1)[..., 0]
    loss = jnp.sum(WEIGHTS * losses) / np.sum(WEIGHTS)
    return loss + 0.01 * jnp.sum(WEIGHTS * normalizer**2) / np.sum(WEIGHTS), loss


@functools.cache
def expected_by_hand():
    """((loss with what z_loss adds, loss), gradients)."""
    return jax.jit(jax.value_and_grad(by_hand, has_aux=True))(PARAMS)


def of(config, weights=WEIGHTS, tokens=TOKENS):
    """Returns (loss, gradients) of a batch on the mesh of a config."""
    mesh, rows = make_mesh(config.mesh), np.arange(len(tokens))[None]
    with use_mesh(mesh):
        read = lambda i: Batch(tokens[i], weights=None if weights is None else weights[i])  # noqa: E731
        batch = jax.tree.map(lambda leaf: leaf[0], place_batches(mesh, read, rows, 1, False))
        logged, grads = jax.jit(lambda p, b: gradients(config, p, b, None))(PARAMS, batch)
        return jax.tree.map(np.asarray, (logged["loss"], grads))


def assert_close(tree, expected):
    for got, want in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "mesh"),
    [(1, {}), (4, {}), (8, {}), (1, {"data": 2}), (2, {"data": 2}), (4, {"data": 2}), (2, {"fsdp": 2})],
)
def test_unequal_weights_give_the_gradient_of_one_big_batch_however_it_is_cut(parts, mesh):
    (_, loss), expected = expected_by_hand()
    got_loss, got = of(replace(UNTIED, accumulation_steps=parts, mesh=MeshConfig(**mesh)))
    assert got_loss == pytest.approx(float(loss), rel=1e-5)
    assert_close(got, expected)


@pytest.mark.parametrize("parts", [1, 2])
def test_equal_weights_are_the_plain_mean(parts):
    config = replace(UNTIED, accumulation_steps=parts)
    assert_close(of(config, np.full_like(WEIGHTS, 0.25)), of(config, None))


def test_a_batch_in_which_nothing_weighs_anything_is_no_update():
    loss, _ = of(replace(UNTIED, accumulation_steps=2), np.zeros_like(WEIGHTS))
    assert np.isnan(loss)  # the guard leaves out what is not finite


def test_what_routers_add_is_weighed_as_the_tokens_of_their_micro_batch():
    experts = ExpertsConfig(num_experts=4, balance_loss=0.5, capacity_factor=4.0)
    config = replace(CONFIG, model=replace(MODEL, experts=experts), z_loss=0.0)
    params, weights = jax.tree.map(jnp.asarray, init_params(config.model, 0)), np.ones_like(WEIGHTS)
    weights[1::2] = 3.0  # every other row is one of two micro-batches

    def grads(rows, weights, parts=1):
        batch = Batch(TOKENS[rows], weights=None if weights is None else weights[rows])
        cut = replace(config, accumulation_steps=parts)
        return jax.jit(lambda p, b: gradients(cut, p, b, None)[1])(params, batch)

    even, odd = grads(slice(0, None, 2), None), grads(slice(1, None, 2), None)
    expected = jax.tree.map(lambda a, b: (a + 3 * b) / 4, even, odd)
    assert_close(grads(slice(None), weights, parts=2), expected)


def test_targets_of_their_own_are_those_of_the_window_when_they_are_the_next_tokens():
    segments = np.sort(DRAW.integers(0, 3, TOKENS.shape), axis=1)
    whole = Batch(TOKENS, segments=segments)
    apart = Batch(TOKENS[:, :-1], TOKENS[:, 1:], segments=segments[:, :-1])
    results = [OBJECTIVES["next_token"].losses(UNTIED, PARAMS, batch, None)[0] for batch in (whole, apart)]
    np.testing.assert_array_equal(*results)


def test_evaluation_weighs_targets_and_its_error_is_that_of_a_ratio(monkeypatch):
    plain = OBJECTIVES["next_token"]
    seen = np.arange(8) < TOKENS[:, :1] % 8 + 1

    def first_positions(config, params, batch, key):
        """Counts only so many positions of a row as its first token says."""
        losses, _, added, logged = plain.losses(config, params, batch, key)
        count = batch.inputs[:, :1] % 8 + 1
        return losses, (jnp.arange(8) < count).astype(jnp.float32), added, logged

    monkeypatch.setitem(OBJECTIVES, "next_token", replace(plain, losses=first_positions, has_weights=True))
    config = replace(UNTIED, model=replace(UNTIED.model, base_d_model=17))  # a shape that nothing has compiled for
    result = evaluate(
        config,
        PARAMS,
        HeldOut(validation=TEXT, windows=TOKENS, groups=np.arange(8), segments=None),
    )
    losses = np.asarray(plain.losses(config, PARAMS, Batch(TOKENS), None)[0], np.float64)
    mean = losses[seen].mean()
    assert result.loss == pytest.approx(mean, rel=1e-5)
    residuals = np.sum(np.where(seen, losses - mean, 0), axis=1)  # linearised: sum of squares over rows, n / (n - 1)
    expected = np.sqrt(np.sum(residuals**2) * 8 / 7) / np.sum(seen)
    assert result.loss_standard_error == pytest.approx(expected, rel=1e-4)


def test_the_names_in_the_config_are_the_rows_of_the_table():
    assert tuple(OBJECTIVES) == typing.get_args(Objective)


def test_an_unknown_objective_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="objective is 'nexttoken'.*did you mean 'next_token'"):
        replace(CONFIG, objective="nexttoken")


def test_the_objective_of_before_there_were_objectives_is_no_part_of_what_a_run_is():
    assert "objective" not in run_identity([CONFIG]) and "family" not in run_identity([CONFIG])["model"]
