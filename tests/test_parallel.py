"""Every way to split a run over a mesh gives the numbers of one device, by the collectives it should and no others.

The check is the whole training block: 20 steps on eight simulated devices against 20 on one.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.functional import abstract_params
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.config import OptimizerConfig, TrainConfig
from kleiber.train.optimizer import make_optimizer
from kleiber.train.placement import initial_state, place_batches
from kleiber.train.step import Hyperparameters, make_block

STEPS, BATCH = 20, 16
DENSE = ModelConfig(
    d_model=32, num_layers=4, num_heads=4, d_ff=64, vocab_size=64, seq_len=16, has_scanned_layers=True,
    has_previous_token_mix=True, attention_blocks=1,
)  # fmt: skip
EXPERTS = dataclasses.replace(DENSE, experts=ExpertsConfig(num_experts=4, num_active=2, group_size=4, num_shared=1))
MODELS = {"dense": DENSE, "experts": EXPERTS}
TOKENS = np.random.default_rng(0).integers(0, 64, (200, DENSE.seq_len + 1)).astype(np.int32)
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


def run(config, steps=STEPS):
    """Returns (log, final state) of a run, as host arrays."""
    mesh = make_mesh(config.mesh)
    optimizer = make_optimizer(config.optimizer, config.model, abstract_params(config.model))
    with use_mesh(mesh):
        state = initial_state([config], optimizer, mesh)
        tokens = place_batches(mesh, lambda i: TOKENS[i], INDICES[:steps], STEPS, False)
        hyper = Hyperparameters(np.float32(config.optimizer.learning_rate), np.float32(0.1))
        block = make_block(config, optimizer)
        state, log = block(state, hyper, tokens, None, np.ones(STEPS, np.float32), np.uint32(0), np.int32(steps))
        return jax.tree.map(np.asarray, (log, state))


@functools.cache
def one_device(model, **fields):
    return run(config_of(model, **fields))


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
