"""Delayed synchronisation: equal to data parallelism where algebra says so, apart between synchronisations."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from kleiber.model.config import ModelConfig
from kleiber.model.counts import num_params_total
from kleiber.model.functional import abstract_params
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.config import DataConfig, DelayedSyncConfig, EvalConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.run_data import open_run_data
from kleiber.train.placement import initial_state, place_batches
from kleiber.train.state import Hyperparameters
from kleiber.train.step import compile_steps
from kleiber.train.trunk import Trunk, TrunkIO
from kleiber.train.update.delayed_sync import Outer, common_params, outer_optimizer, synchronise
from kleiber.train.update.exchanged_bytes import exchanged_bytes
from kleiber.train.update.optimizer import make_optimizer

STEPS, BATCH = 12, 8
MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=32, seq_len=8, parametrization="standard")
TOKENS = np.random.default_rng(0).integers(0, 32, (STEPS * BATCH, 9)).astype(np.int32)
SGD = OptimizerConfig(name="sgd", learning_rate=0.05, beta1=0.9, clip_norm=None)


def config(delayed=None, mesh=None, optimizer=SGD):
    mesh = MeshConfig(**(mesh or {}))
    return TrainConfig(
        MODEL, optimizer, (100,), batch_size=BATCH, steps_per_call=STEPS, delayed_sync=delayed, mesh=mesh
    )


@functools.cache
def program(config):
    """Returns (mesh, optimizer, compiled steps) of a config, once for all tests."""
    optimizer = make_optimizer(config.optimizer, config.model, abstract_params(config.model))
    return make_mesh(config.mesh), optimizer, compile_steps(config, optimizer)


def train(config, steps=STEPS):
    mesh, optimizer, run = program(config)
    with use_mesh(mesh):
        state = initial_state([config], optimizer, mesh)
        indices = np.arange(STEPS * BATCH).reshape(STEPS, BATCH)
        batches = place_batches(mesh, lambda i: Batch(TOKENS[i]), indices, STEPS, False)
        hyper = Hyperparameters(np.float32(config.optimizer.learning_rate), np.float32(0.1))
        state, log = run(state, hyper, batches, np.ones(STEPS, np.float32), np.uint32(0), np.int32(steps))
        return jax.tree.map(np.asarray, (state, log))


def assert_close(tree, expected, rtol=1e-5):
    for got, want in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("replicas", [2, 4])
def test_one_inner_step_and_a_plain_outer_step_is_data_parallel_sgd(replicas):
    plain, log = train(config())
    every_step = DelayedSyncConfig(replicas, 1, outer_learning_rate=1.0, outer_momentum=0.0)
    state, delayed_log = train(config(every_step))
    assert_close(state.outer.params, plain.params)
    np.testing.assert_allclose(delayed_log.losses, log.losses, rtol=1e-5)


def test_replicas_part_between_synchronisations_and_meet_at_them():
    delayed = DelayedSyncConfig(2, 5)
    apart, _ = train(config(delayed), steps=9)
    together, _ = train(config(delayed), steps=10)
    gap = max(float(np.abs(leaf[0] - leaf[1]).max()) for leaf in jax.tree.leaves(apart.params))
    assert gap > 1e-3
    for leaf, common in zip(jax.tree.leaves(together.params), jax.tree.leaves(together.outer.params), strict=True):
        np.testing.assert_array_equal(leaf[0], leaf[1])
        np.testing.assert_array_equal(leaf[0], common)


def test_the_outer_step_is_nesterov_by_hand():
    delayed = DelayedSyncConfig(2, 5, outer_learning_rate=0.7, outer_momentum=0.9)
    common = {"w": np.array([1.0, 2.0], np.float32)}
    outer = Outer(common, outer_optimizer(delayed).init(common))
    replicas = {"w": np.array([[0.5, 2.0], [0.7, 2.4]], np.float32)}  # mean .6, 2.2: outer gradient .4, -.2
    params, outer = synchronise(delayed, replicas, outer)
    np.testing.assert_allclose(outer.params["w"], [1.0 - 0.7 * 1.9 * 0.4, 2.0 + 0.7 * 1.9 * 0.2], rtol=1e-6)
    params, outer = synchronise(delayed, params, outer)  # nothing moved: momentum .9 * .4 alone, looked ahead
    np.testing.assert_allclose(outer.params["w"][0], 1.0 - 0.7 * 1.9 * 0.4 - 0.7 * 0.9 * 0.9 * 0.4, rtol=1e-6)
    assert params["w"].shape == (2, 2)


def test_a_run_is_measured_at_its_common_parameters_and_goes_on_unchanged():
    delayed = DelayedSyncConfig(2, 5)
    state, _ = train(config(delayed), steps=9)
    measured = common_params(delayed, state.params, state.outer, 9)
    expected, _ = synchronise(delayed, state.params, state.outer)
    assert_close(measured, jax.tree.map(lambda leaf: leaf[0], expected))
    at_sync, _ = train(config(delayed), steps=10)
    assert common_params(delayed, at_sync.params, at_sync.outer, 10) is at_sync.outer.params


@pytest.mark.parametrize("mesh", [{"replica": 2}, {"replica": 2, "data": 2, "tensor": 2}, {"data": 2}])
def test_replicas_on_a_mesh_are_replicas_on_one_device(mesh):
    adam = OptimizerConfig(learning_rate=3e-3)
    delayed = DelayedSyncConfig(2, 5)
    expected, expected_log = train(config(delayed, optimizer=adam))
    state, log = train(config(delayed, mesh, adam))
    np.testing.assert_allclose(log.losses, expected_log.losses, rtol=1e-5)
    assert_close(state.outer.params, expected.outer.params, rtol=1e-3)


def test_bytes_are_those_of_a_ring_all_reduce_once_every_h_steps():
    size = 4 * num_params_total(MODEL)
    assert exchanged_bytes(config(mesh={"data": 4}), 100) == round(1.5 * size) * 100
    assert exchanged_bytes(config(DelayedSyncConfig(4, 50)), 100) == round(1.5 * size) * 2
    assert (
        exchanged_bytes(config(DelayedSyncConfig(4, 50)), 101) == round(1.5 * size) * 3
    )  # the last one to be measured
    assert exchanged_bytes(config(), 100) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"delayed": DelayedSyncConfig(3)}, r"does not divide batch_size \(of each of 3 replicas"),
        ({"mesh": {"replica": 2}}, r"replica = 2 does not divide delayed_sync.num_replicas = 1"),
        ({"delayed": DelayedSyncConfig(2), "mesh": {"replica": 4}}, r"replica = 4 does not divide .* = 2"),
    ],
)
def test_replicas_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)
    with pytest.raises(ValueError, match="expected at least 1"):
        dataclasses.replace(DelayedSyncConfig(2), num_inner_steps=0)


def measured(folder, members, data):
    """Returns the loss of each member at the end of its run."""
    losses = {}
    folders = [folder / str(index) for index in range(len(members))]
    io = TrunkIO(
        folder, folders, lambda point: losses.update({point.member: point.evaluation.loss}), lambda tokens: False
    )
    Trunk(members, data, io).run()
    return [losses[index] for index in range(len(members))]


def test_a_population_of_replicas_is_measured_as_its_members_are_one_by_one(tmp_path):
    words = np.array(["alpha", "beta", "gamma", "delta", "law", "of", "the", "model"])
    rows = words[np.random.default_rng(0).integers(0, 8, (300, 40))]
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(row) for row in rows))
    one = TrainConfig(
        dataclasses.replace(MODEL, vocab_size=256),
        OptimizerConfig(3e-3),
        (12 * BATCH * 8,),  # 12 steps: two left after the last synchronisation
        batch_size=BATCH,
        steps_per_call=STEPS,
        data=DataConfig(str(tmp_path / "text.txt")),
        evaluation=EvalConfig(512, 8),
        delayed_sync=DelayedSyncConfig(2, 5),
    )
    members = [one, dataclasses.replace(one, seed=1)]
    data = open_run_data(one)
    together = measured(tmp_path / "together", members, data)
    apart = [measured(tmp_path / str(m.seed), [m], data)[0] for m in members]
    assert together == pytest.approx(apart, rel=1e-4)
    assert abs(apart[0] - apart[1]) > 1e-3
