"""Every way to split a run over a mesh gives the numbers of one device, by the collectives it should and no others.

The check is the compiled steps: 20 steps on eight simulated devices against 20 on one.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from kleiber.experiments.bench.timed_steps import TimedSteps
from kleiber.experiments.compilation.collectives import collectives
from kleiber.experiments.compilation.hlo import parse
from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.counts import num_params_total
from kleiber.model.functional import abstract_params
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.config import DelayedSyncConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.placement import abstract_state, initial_state, place_batches, state_shardings
from kleiber.train.state import Hyperparameters
from kleiber.train.step import compile_steps
from kleiber.train.update.optimizer import make_optimizer

STEPS, BATCH = 20, 16
DENSE = ModelConfig(
    d_model=32, num_layers=4, num_heads=4, d_ff=64, vocab_size=64, seq_len=16, has_scanned_layers=True,
    has_previous_token_mix=True, attention_blocks=1,
)  # fmt: skip
EXPERTS = dataclasses.replace(DENSE, experts=ExpertsConfig(num_experts=4, num_active=2, group_size=4, num_shared=1))
MODELS = {"dense": DENSE, "experts": EXPERTS}
TOKENS = np.random.default_rng(0).integers(0, 64, (200, DENSE.seq_len + 1)).astype(np.int32)
DOCUMENTS = np.sort(np.random.default_rng(1).integers(0, 3, TOKENS.shape), axis=1).astype(np.int32)
INDICES = np.arange(STEPS * BATCH).reshape(STEPS, BATCH) % len(TOKENS)


def config_of(model, mesh=None, **fields):
    optimizer = OptimizerConfig(learning_rate=1e-3, clip_norm=None)
    return TrainConfig(
        MODELS[model],
        optimizer,
        (1000,),
        batch_size=BATCH,
        steps_per_call=STEPS,
        mesh=MeshConfig(**(mesh or {})),
        **fields,
    )


def run(config, steps=STEPS, num_members=1, has_documents=False):
    """Returns (log, final state) of a run, as host arrays; of a population, the members differ in their seed."""
    mesh, is_population = make_mesh(config.mesh), num_members > 1
    optimizer = make_optimizer(config.optimizer, config.model, abstract_params(config.model))

    def each(value):
        return np.stack([value] * num_members) if is_population else value

    def read(indices):
        return Batch(TOKENS[indices], segments=DOCUMENTS[indices] if has_documents else None)

    with use_mesh(mesh):
        state = initial_state([dataclasses.replace(config, seed=i) for i in range(num_members)], optimizer, mesh)
        batches = place_batches(mesh, read, each(INDICES[:steps]), STEPS, is_population)
        hyper = Hyperparameters(each(np.float32(config.optimizer.learning_rate)), each(np.float32(0.1)))
        rest = each(np.ones(STEPS, np.float32)), each(np.uint32(0)), np.int32(steps)
        state, log = compile_steps(config, optimizer, num_members)(state, hyper, batches, *rest)
        return jax.tree.map(np.asarray, (log, state))


@functools.cache
def one_device(model, num_members=1, has_documents=False, **fields):
    return run(config_of(model, **fields), num_members=num_members, has_documents=has_documents)


MESHES = [
    ("dense", {"data": 8}),
    ("dense", {"fsdp": 8}),
    ("dense", {"tensor": 4}),
    ("dense", {"context": 8}),
    ("dense", {"stage": 4}),
    ("experts", {"expert": 4}),
    ("dense", {"data": 2, "fsdp": 4}),
    ("dense", {"data": 2, "tensor": 4}),
    ("dense", {"fsdp": 2, "tensor": 4}),
    ("dense", {"data": 2, "fsdp": 2, "tensor": 2}),
    ("dense", {"data": 2, "context": 4}),
    ("dense", {"context": 2, "tensor": 4}),
    ("dense", {"fsdp": 2, "context": 2, "tensor": 2}),
    ("dense", {"stage": 2, "data": 4}),
    ("dense", {"stage": 2, "fsdp": 2, "tensor": 2}),
    ("dense", {"stage": 2, "context": 2, "tensor": 2}),
    ("experts", {"data": 2, "expert": 4}),
    ("experts", {"fsdp": 2, "expert": 2, "tensor": 2}),
    ("experts", {"expert": 2, "context": 2, "tensor": 2}),
    ("experts", {"stage": 2, "expert": 2, "tensor": 2}),
]


@pytest.mark.parametrize(("model", "mesh"), MESHES, ids=lambda x: x if isinstance(x, str) else "-".join(x))
def test_a_split_run_is_the_run_of_one_device(model, mesh):
    log, state = run(config_of(model, mesh))
    expected_log, expected_state = one_device(model)
    np.testing.assert_allclose(log.losses, expected_log.losses, rtol=1e-5)
    np.testing.assert_allclose(log.gradient_norms, expected_log.gradient_norms, rtol=1e-5)
    assert distance(first_moment(state), first_moment(expected_state)) < 1e-5


@pytest.mark.parametrize("members", [{}, {"num_members": 3, "has_documents": True}], ids=["one", "population"])
def test_micro_batches_of_devices_that_share_the_batch_are_summed_over_them_once_a_step(members):
    config = config_of("dense", {"data": 4}, accumulation_steps=2)
    log, state = run(config, **members)
    expected_log, expected_state = one_device("dense", **members)
    np.testing.assert_allclose(log.losses, expected_log.losses, rtol=1e-5)
    np.testing.assert_allclose(log.gradient_norms, expected_log.gradient_norms, rtol=1e-5)
    assert distance(first_moment(state), first_moment(expected_state)) < 1e-5
    text = TimedSteps(config, members.get("num_members", 1)).compiled.as_text()
    loops = [line.split('op_name="')[1].count("while/body") for line in text.splitlines() if " all-reduce(" in line]
    assert loops and max(loops) == 1  # the steps of a call are a loop, and the micro-batches of a step another in it


def first_moment(state):
    """Adam's running mean of the gradients over all steps."""
    (direction,) = state.opt_state
    return direction.mu


def distance(tree, expected):
    """|a - b| / |b| of two trees of arrays as one vector each."""
    squares = jax.tree.map(
        lambda a, b: np.array([np.sum(np.square(a - b, dtype=np.float64)), np.sum(np.square(b))]), tree, expected
    )
    difference, size = sum(jax.tree.leaves(squares))
    return (difference / size) ** 0.5


def compiled_collectives(model, mesh, **fields):
    """Returns the collectives of one compiled step."""
    config = dataclasses.replace(config_of(model, mesh, **fields), steps_per_call=1)
    mesh = make_mesh(config.mesh)
    optimizer = make_optimizer(config.optimizer, config.model, abstract_params(config.model))
    with use_mesh(mesh):
        shapes = abstract_state(config, optimizer)
        state = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            shapes,
            state_shardings(config, mesh, shapes),
        )
        batches = place_batches(mesh, lambda i: Batch(TOKENS[i]), INDICES[:1], 1, False)
        hyper = Hyperparameters(np.float32(1e-3), np.float32(0.1))
        steps = compile_steps(config, optimizer)
        lowered = steps.lower(state, hyper, batches, np.ones(1, np.float32), np.uint32(0), np.int32(1))
    return collectives(parse(lowered.compile().as_text()), config.mesh.sizes)


MATRIX_BYTES = 4 * DENSE.d_model * DENSE.feed_forward_width  # of the largest weight of a layer, float32


@pytest.mark.parametrize(
    ("model", "mesh", "kinds"),
    [
        ("dense", {"data": 4}, {"all-reduce"}),
        ("dense", {"fsdp": 4}, {"all-gather", "all-reduce", "reduce-scatter"}),
        ("dense", {"tensor": 4}, {"all-reduce"}),
        ("dense", {"context": 4}, {"collective-permute", "all-reduce"}),
        ("dense", {"stage": 4}, {"collective-permute", "all-reduce"}),
        ("experts", {"expert": 4}, {"all-to-all", "all-reduce", "all-gather"}),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else None,
)
def test_the_compiled_step_moves_what_its_axis_should_and_nothing_else(model, mesh, kinds):
    found = compiled_collectives(model, mesh)
    (axis,) = mesh
    assert {item.axes for item in found} == {(axis,)}
    assert {item.kind for item in found} <= kinds
    main = {
        "fsdp": "all-gather",
        "context": "collective-permute",
        "stage": "collective-permute",
        "expert": "all-to-all",
    }
    assert main.get(axis, "all-reduce") in {item.kind for item in found}
    if axis != "fsdp":  # no other axis ever gathers a weight; the router's scores, half a kilobyte a row, may be
        largest = max((item.sent_bytes for item in found if item.kind == "all-gather"), default=0.0)
        assert largest < MATRIX_BYTES
    if axis in ("data", "fsdp", "context"):
        # Each gradient once, 2 (n - 1) / n of its bytes; a tied table has two, from the look-up and from the head.
        table = DENSE.vocab_size * DENSE.d_model
        reduced = sum(item.total_bytes for item in found if item.kind in ("all-reduce", "reduce-scatter"))
        assert reduced == pytest.approx(1.5 * 4 * (num_params_total(DENSE) + table), rel=1e-2)


def test_replicas_meet_only_inside_the_synchronisation():
    delayed = DelayedSyncConfig(4, 10)
    found = compiled_collectives("dense", {"replica": 4}, delayed_sync=delayed)
    # 2 (n - 1) / n of the parameters, once; a hundred bytes more for the averages that are logged.
    sent = sum(item.total_bytes for item in found)
    assert {item.axes for item in found} == {("replica",)}
    assert sent == pytest.approx(1.5 * 4 * num_params_total(DENSE), abs=200)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"tensor": 8}, r"tensor=8: tensor = 8 does not divide model.num_heads = 4"),
        ({"data": 3}, r"data=3: data x fsdp x expert = 3 does not divide batch_size .* = 16"),
        ({"context": 16}, r"context=16: twice context = 32 does not divide model.seq_len = 16"),
        ({"stage": 3}, r"stage=3: stage = 3 does not divide model.num_layers = 4"),
        ({"expert": 2}, r"expert=2: expert = 2 does not divide model.experts.num_experts = 1"),
        ({"data": 0}, r"'data': 0.*expected at least 1"),
    ],
)
def test_a_mesh_that_does_not_fit_the_run_is_refused_before_anything_is_compiled(mesh, message):
    with pytest.raises(ValueError, match=message):
        config_of("dense", mesh)


def test_a_pipeline_of_too_few_sequences_says_what_to_change():
    with pytest.raises(ValueError, match=r"pipeline of 4 stages .* 2 microbatches .* grow batch_size or lower stage"):
        dataclasses.replace(config_of("dense", {"stage": 4, "data": 2}), batch_size=4)
