"""The compiled steps, against slow clear versions of itself."""

import functools
import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kleiber.model.config import ModelConfig
from kleiber.model.functional import apply as eager_apply
from kleiber.model.functional import init_params
from kleiber.model.kernels.rows_times_weight import rows_times_weight
from kleiber.parallel.config import MeshConfig
from kleiber.train.config import (
    DataConfig,
    DelayedSyncConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from kleiber.train.data.batch import Batch
from kleiber.train.data.run_data import HeldOut, open_run_data
from kleiber.train.data.tokens import TokenFile
from kleiber.train.data.windows import TokenSource
from kleiber.train.evaluate import cluster_standard_error, evaluate
from kleiber.train.micro_batches import num_micro_batches
from kleiber.train.state import Hyperparameters, TrainState
from kleiber.train.step import compile_steps
from kleiber.train.trunk import Trunk, TrunkIO
from kleiber.train.update.optimizer import make_optimizer

MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=32, seq_len=8, base_d_model=16, base_num_layers=1)
CONFIG = TrainConfig(model=MODEL, optimizer=OptimizerConfig(0.01), num_tokens=(1000,), batch_size=4, steps_per_call=4)
TOKENS = np.random.default_rng(0).integers(0, 32, (4, 4, 9)).astype(np.uint8)
FRACTIONS = np.array([0.25, 0.5, 0.75, 1.0], np.float32)
TEXT = SimpleNamespace(bytes_per_token=1.0)


apply = jax.jit(eager_apply, static_argnums=0)


@functools.cache
def program(config):
    """Returns (optimizer, compiled steps) of a config, once for all tests."""
    optimizer = make_optimizer(config.optimizer, config.model, init_params(config.model, 0))
    return optimizer, compile_steps(config, optimizer)


def train(config, num_steps=4, seed=0, rate=0.01, tokens=TOKENS):
    params = init_params(config.model, seed)
    optimizer, steps = program(config)
    state = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))
    state = jax.tree.map(jnp.asarray, state)
    hyper = Hyperparameters(jnp.float32(rate), jnp.float32(config.optimizer.weight_decay))
    state, log = steps(state, hyper, Batch(tokens), FRACTIONS, np.uint32(0), np.int32(num_steps))
    return state, log.losses


def largest_difference(a, b):
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_steps_equal_optax_adamw_step_by_step():
    config = replace(CONFIG, optimizer=OptimizerConfig(0.01, weight_decay=0.1, clip_norm=1.0))
    state, losses = train(config)
    params = jax.tree.map(jnp.asarray, init_params(MODEL, 0))

    def loss_fn(params, tokens):
        logits = apply(MODEL, params, jnp.asarray(tokens[:, :-1], jnp.int32))
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(tokens[:, 1:], jnp.int32)).mean()

    decays = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "embedding", params)
    reference = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(lambda count: jnp.asarray(FRACTIONS)[count] * 0.01, 0.9, 0.99, 1e-8, weight_decay=0.1, mask=decays),
    )
    opt_state, expected = reference.init(params), []

    @jax.jit
    def step(params, opt_state, tokens):
        loss, grads = jax.value_and_grad(loss_fn)(params, tokens)
        updates, opt_state = reference.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for tokens in TOKENS:
        params, opt_state, loss = step(params, opt_state, tokens)
        expected.append(float(loss))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert largest_difference(state.params, params) < 2e-5


@pytest.mark.parametrize(("norm", "clipped"), [(0.5, 0.5), (5.0, 1.0), (0.0, 0.0)])
def test_gradients_above_the_limit_are_brought_to_it_and_others_left_alone(norm, clipped):
    shapes = {"input": {"embedding": jnp.zeros((1, 2))}}
    optimizer = make_optimizer(OptimizerConfig(name="sgd", learning_rate=1.0, beta1=0.0, clip_norm=1.0), MODEL, shapes)
    grads = jax.tree.map(lambda x: x + norm * jnp.array([0.6, 0.8]), shapes)
    directions, _ = optimizer.direction.update(grads, optimizer.init(shapes), shapes)
    np.testing.assert_allclose(jax.tree.leaves(directions)[0], [[0.6 * clipped, 0.8 * clipped]], rtol=1e-6)


def test_steps_beyond_the_asked_number_change_nothing():
    two, losses = train(CONFIG, num_steps=2)
    assert int(two.step) == 2
    np.testing.assert_array_equal(losses[2:], 0)
    changed = np.array(TOKENS)
    changed[2:] = 0
    assert largest_difference(two.params, train(CONFIG, num_steps=2, tokens=changed)[0].params) == 0


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_micro_batches_equal_the_whole_batch(parts):
    whole, whole_losses = train(CONFIG)
    split, split_losses = train(replace(CONFIG, accumulation_steps=parts))
    np.testing.assert_allclose(whole_losses, split_losses, rtol=1e-5)
    assert largest_difference(whole.params, split.params) < 1e-4


def test_micro_batches_on_a_cpu_hold_512_tokens_or_more_and_are_left_to_the_user_elsewhere():
    config = replace(CONFIG, model=replace(MODEL, seq_len=128), batch_size=16)
    assert num_micro_batches(config, "cpu") == 4
    assert num_micro_batches(replace(config, batch_size=12), "cpu") == 3
    assert num_micro_batches(replace(config, batch_size=7), "cpu") == 1  # seven rows of one would be too small
    assert num_micro_batches(config, "gpu") == 1
    assert num_micro_batches(replace(config, mesh=MeshConfig(data=2)), "cpu") == 2
    assert num_micro_batches(replace(config, delayed_sync=DelayedSyncConfig(4)), "cpu") == 1
    assert num_micro_batches(replace(config, accumulation_steps=8), "cpu") == 8
    assert num_micro_batches(replace(config, model=replace(config.model, dropout=0.1)), "cpu") == 1


def test_the_gradient_through_a_turned_factor_is_that_of_the_plain_product():
    for rows, width, wide in ((40, 128, 192), (40, 192, 128), (40, 8, 192), (40, 192, 8)):
        x, weight, grad = (
            np.random.default_rng(seed).normal(size=size).astype(np.float32)
            for seed, size in enumerate(((rows, width), (width, wide), (rows, wide)))
        )
        _, back = jax.vjp(rows_times_weight, x, weight)
        of_x, of_weight = back(jnp.asarray(grad))
        np.testing.assert_allclose(of_x, grad @ weight.T, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(of_weight, x.T @ grad, rtol=1e-4, atol=1e-4)


def test_a_population_equals_its_members_trained_alone():
    members = [(0, 0.01), (1, 0.02), (2, 0.005)]
    alone = [train(CONFIG, seed=seed, rate=rate) for seed, rate in members]
    params = [init_params(MODEL, seed) for seed, _ in members]
    optimizer = make_optimizer(CONFIG.optimizer, MODEL, params[0])
    states = [TrainState(p, optimizer.init(p), jnp.zeros((), jnp.int32)) for p in params]
    stack = lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves])  # noqa: E731
    state = jax.tree.map(stack, *states)
    rates = jnp.array([rate for _, rate in members], jnp.float32)
    hyper = Hyperparameters(rates, jnp.full(3, CONFIG.optimizer.weight_decay, jnp.float32))
    repeat = lambda array: np.stack([array] * 3)  # noqa: E731
    steps = compile_steps(CONFIG, optimizer, num_members=3)
    state, log = steps(
        state, hyper, Batch(repeat(TOKENS)), repeat(FRACTIONS), np.arange(3, dtype=np.uint32), np.int32(4)
    )
    for index, (one, one_losses) in enumerate(alone):
        np.testing.assert_allclose(log.losses[index], one_losses, rtol=1e-5)
        assert largest_difference(jax.tree.map(lambda leaf, i=index: leaf[i], state.params), one.params) < 1e-4


def test_z_loss_pulls_the_normaliser_and_stays_out_of_the_reported_loss():
    plain, plain_losses = train(CONFIG)
    pulled, pulled_losses = train(replace(CONFIG, z_loss=0.1))
    assert float(plain_losses[0]) == pytest.approx(float(pulled_losses[0]), rel=1e-6)
    tokens = jnp.asarray(TOKENS[0, :, :-1], jnp.int32)

    def squared_normalizer(state):
        return float(jnp.mean(jax.nn.logsumexp(apply(MODEL, state.params, tokens), axis=-1) ** 2))

    assert squared_normalizer(pulled) < squared_normalizer(plain)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "muon"])
def test_every_optimizer_learns_a_repeated_batch(name):
    config = replace(CONFIG, optimizer=OptimizerConfig(0.02, name=name), steps_per_call=4)
    params = init_params(MODEL, 0)
    optimizer = make_optimizer(config.optimizer, MODEL, params)
    state = jax.tree.map(jnp.asarray, TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32)))
    hyper = Hyperparameters(jnp.float32(0.02), jnp.float32(0.0))
    tokens = np.stack([TOKENS[0]] * 4)
    steps = compile_steps(config, optimizer)
    history = []
    for _ in range(10):
        state, log = steps(state, hyper, Batch(tokens), np.ones(4, np.float32), np.uint32(0), np.int32(4))
        history.append(float(log.losses[0]))
    assert history[-1] < history[0] - 0.2


def test_a_matrix_of_fixed_norm_takes_steps_relative_to_it_and_other_weights_move_as_without():
    model = replace(MODEL, parametrization="standard")
    params = jax.tree.map(jnp.asarray, init_params(model, 0))
    settings = OptimizerConfig(0.1, clip_norm=None, weight_decay=0.3)
    rng = np.random.default_rng(5)
    grads = [jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), params) for _ in range(2)]
    moved = {}
    for is_fixed in (False, True):
        optimizer, tree = make_optimizer(replace(settings, has_fixed_norms=is_fixed), model, params), params
        state = optimizer.init(tree)
        for each in grads:
            tree, state = optimizer.update(each, state, tree, jnp.float32(0.1), jnp.float32(0.3))
        moved[is_fixed] = tree
    for path in (("input", "embedding"),):
        of = {is_fixed: functools.reduce(lambda tree, name: tree[name], path, moved[is_fixed]) for is_fixed in moved}
        np.testing.assert_array_equal(of[True], of[False])
    weight, first, second = (each["blocks"]["00"]["attention"]["query"] for each in (params, *grads))
    weight, slow_first, slow_second = np.asarray(weight, np.float64), 0.0, 0.0
    for step, grad in enumerate((np.asarray(first, np.float64), np.asarray(second, np.float64)), start=1):
        slow_first, slow_second = 0.9 * slow_first + 0.1 * grad, 0.99 * slow_second + 0.01 * grad**2
        direction = slow_first / (1 - 0.9**step) / (np.sqrt(slow_second / (1 - 0.99**step)) + 1e-8)
        norm = np.sqrt((weight**2).sum())
        there = weight - 0.1 * norm * direction / np.sqrt((direction**2).sum())
        weight = norm * there / np.sqrt((there**2).sum())
    np.testing.assert_allclose(moved[True]["blocks"]["00"]["attention"]["query"], weight, rtol=2e-5, atol=1e-7)
    with pytest.raises(ValueError, match="has_fixed_norms with model.parametrization 'inverse_width'.*set parametr"):
        replace(
            CONFIG,
            model=replace(MODEL, parametrization="inverse_width"),
            optimizer=replace(settings, has_fixed_norms=True),
        )


def test_evaluation_is_the_mean_over_every_target_token_even_with_a_partial_last_batch():
    params = jax.tree.map(jnp.asarray, init_params(MODEL, 0))
    windows = np.random.default_rng(1).integers(0, 32, (21, 9)).astype(np.uint8)
    data = HeldOut(
        validation=SimpleNamespace(bytes_per_token=1.0), windows=windows, groups=np.arange(21), segments=None
    )
    result = evaluate(CONFIG, params, data)
    logits = apply(MODEL, params, jnp.asarray(windows[:, :-1], jnp.int32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(windows[:, 1:], jnp.int32))
    assert result.loss == pytest.approx(float(losses.mean()), rel=1e-6)
    expected = float(np.std(np.asarray(losses.mean(axis=1)), ddof=1) / np.sqrt(21))
    assert result.loss_standard_error == pytest.approx(expected, rel=1e-4)


def documents_of_eight_tokens(seq_len):
    """Eight documents of eight tokens and a last token: four windows of 16 tokens, or eight of one document each."""
    tokens = np.random.default_rng(2).integers(0, 32, 65).astype(np.uint8)
    file = TokenFile(tokens, np.array([*range(0, 65, 8), 65]), np.arange(9, dtype=np.int32), "bytes", 32, 65, "x/0")
    return TokenSource(file, seq_len, "test", "train")


def test_attention_within_documents_trains_on_packed_rows_as_on_rows_of_one_document_each(tmp_path, monkeypatch):
    source = lambda data, split, seq_len: documents_of_eight_tokens(seq_len)  # noqa: E731
    monkeypatch.setattr("kleiber.train.data.run_data.open_tokens", source)

    def losses(name, seq_len, batch_size, document_attention):  # each step on the whole epoch, so in any order
        config = TrainConfig(
            replace(MODEL, seq_len=seq_len, has_previous_token_mix=True),
            OptimizerConfig(0.05),
            (4 * 64,),
            batch_size=batch_size,
            data=DataConfig(document_attention=document_attention, max_epochs=9),
            schedule=ScheduleConfig("constant", warmup_steps=1),
            steps_per_call=1,
        )
        points, folder = [], tmp_path / name
        Trunk([config], open_run_data(config), TrunkIO(folder, [folder], points.append, lambda tokens: False)).run()
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows] + [points[0].evaluation.loss]

    alone = losses("alone", 8, 8, False)
    assert len(alone) == 5 and alone[-1] < alone[0] - 0.1
    np.testing.assert_allclose(losses("packed", 16, 4, True), alone, rtol=1e-5)
    seeing_more = losses("seeing more", 16, 4, False)
    assert np.abs(np.subtract(seeing_more, alone)).min() > 1e-3


def test_clustered_standard_error_of_identical_copies_is_that_of_the_originals():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    alone = values.std(ddof=1) / 2
    assert cluster_standard_error(np.repeat(values, 5), np.repeat(np.arange(4), 5)) == pytest.approx(alone)
