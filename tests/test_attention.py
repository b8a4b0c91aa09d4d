"""Fused attention gives the numbers and gradients of the textbook's formula, on meshes too; what is kept for the
backward pass changes no number.

Splash is interpreted here, which takes seconds a shape; `KLEIBER_ATTENTION_SHAPES=40 pytest tests/test_attention.py`
tries more of them.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.config import ModelConfig
from kleiber.model.functional import init_params
from kleiber.model.layers.attention import attend_fused
from kleiber.model.layers.mask import Mask
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.config import OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.gradients import gradients

NUM_SHAPES = int(os.environ.get("KLEIBER_ATTENTION_SHAPES", "5"))
MESHES = [{}, {"fsdp": 8}, {"data": 2, "tensor": 4}, {"fsdp": 2, "expert": 2, "tensor": 2}, {"data": 4, "fsdp": 2}]


def textbook(q, k, v, ids, scale, is_causal):
    """Softmax of the whole square of scores, float32; every head has keys of its own."""
    num_groups = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, num_groups, axis=2) for x in (k, v))
    sees = ids[:, None, :, None] == ids[:, None, None, :]
    if is_causal:
        sees &= np.tri(q.shape[1], dtype=bool)
    scores = jnp.where(sees, scale * jnp.einsum("btnh,bsnh->bnts", q, k), -jnp.inf)
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores, axis=-1), v)


@pytest.mark.parametrize("number", range(NUM_SHAPES))
def test_splash_gives_the_output_and_the_gradients_of_the_textbook(number):
    draw = np.random.default_rng(number)
    mesh = MESHES[number % len(MESHES)]
    shards, tensor = MeshConfig(**mesh).num_batch_shards, mesh.get("tensor", 1)
    kv_heads = tensor * int(draw.integers(1, 3))
    shape = (shards, int(draw.integers(2, 300)), kv_heads * int(draw.integers(1, 4)), 2 * int(draw.integers(2, 33)))
    dtype, is_causal, has_documents = [jnp.float32, jnp.bfloat16][number % 2], draw.random() < 0.7, draw.random() < 0.6
    arrays = [jnp.asarray(draw.normal(size=(*shape[:2], n, shape[3])), dtype) for n in (shape[2], kv_heads, kv_heads)]
    weights = jnp.asarray(draw.normal(size=shape), jnp.float32)
    ids = np.sort(draw.integers(0, 4 if has_documents else 1, shape[:2]), axis=1).astype(np.int32)
    mask = Mask(ids if has_documents else None, bool(is_causal))

    def fused(*arrays):
        out = attend_fused("interpreted_splash", *arrays, 0.3, mask)
        assert out.dtype == dtype
        return jnp.sum(weights * out), out

    def slow(*arrays):
        out = textbook(*(x.astype(jnp.float32) for x in arrays), ids, 0.3, is_causal)
        return jnp.sum(weights * out), out

    (_, expected), slopes = jax.value_and_grad(slow, (0, 1, 2), has_aux=True)(*arrays)
    with use_mesh(make_mesh(MeshConfig(**mesh))):
        (_, found), found_slopes = jax.jit(jax.value_and_grad(fused, (0, 1, 2), has_aux=True))(*arrays)
    for one, other in zip((found, *found_slopes), (expected, *slopes), strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        error = np.linalg.norm(one - other) / np.linalg.norm(other)
        assert error < (1e-5 if dtype == jnp.float32 else 1e-2)


MODEL = ModelConfig(
    d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, vocab_size=64, seq_len=128, is_gated=True,
    activation="silu", has_scanned_layers=True,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 64, (8, MODEL.seq_len + 1)).astype(np.int32)


def loss_and_gradients(mesh=None, **fields):
    config = TrainConfig(
        dataclasses.replace(MODEL, **fields),
        OptimizerConfig(1e-3),
        (1000,),
        batch_size=8,
        mesh=MeshConfig(**mesh or {}),
    )
    with use_mesh(make_mesh(config.mesh)):
        step = jax.jit(lambda params, tokens: gradients(config, params, Batch(tokens), None))
        logged, slopes = step(init_params(config.model, 0), TOKENS)
    return jax.tree.map(np.asarray, (logged["loss"], slopes))


def assert_close(found, expected, rtol):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for one, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        assert np.linalg.norm(one - other) <= rtol * np.linalg.norm(other)


@pytest.mark.parametrize("mesh", [{"data": 2, "fsdp": 2, "tensor": 2}, {"stage": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_a_model_with_splash_has_the_loss_and_gradients_of_the_plain_one_on_every_kind_of_mesh(mesh):
    fused = loss_and_gradients(mesh, attention_kernel="interpreted_splash", has_remat=True, remat_keeps="attention")
    assert_close(fused, loss_and_gradients(attention_kernel="plain"), 1e-5)


@pytest.mark.parametrize("keeps", ["nothing", "attention", "products", "products_on_host"])
def test_what_rematerialisation_keeps_changes_no_number(keeps):
    assert_close(loss_and_gradients(has_remat=True, remat_keeps=keeps), loss_and_gradients(), 1e-6)
