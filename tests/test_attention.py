"""Fused attention gives the numbers and gradients of the textbook's formula, on meshes too; what is kept for the
backward pass changes no number.

Splash is interpreted here, which takes seconds a shape; `KLEIBER_ATTENTION_SHAPES=40 pytest tests/test_attention.py`
tries more of them.
"""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.experiments.compilation.collectives import bytes_by_axis, collectives
from kleiber.experiments.compilation.hlo import parse
from kleiber.model.config import ModelConfig
from kleiber.model.functional import init_params, logical_axes
from kleiber.model.layers.attention import attend_fused
from kleiber.model.layers.mask import Mask
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.parallel.rules import constrain
from kleiber.train.config import OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.gradients import gradients

QUICK = {"xla_backend_optimization_level": 0}
NUM_SHAPES = int(os.environ.get("KLEIBER_ATTENTION_SHAPES", "4"))
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

    (_, expected), slopes = jax.jit(jax.value_and_grad(slow, (0, 1, 2), has_aux=True))(*arrays)
    with use_mesh(make_mesh(MeshConfig(**mesh))):
        step = jax.jit(jax.value_and_grad(fused, (0, 1, 2), has_aux=True), compiler_options=QUICK)
        (_, found), found_slopes = step(*arrays)
    for one, other in zip((found, *found_slopes), (expected, *slopes), strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        error = np.linalg.norm(one - other) / np.linalg.norm(other)
        assert error < (1e-5 if dtype == jnp.float32 else 1e-2)


MODEL = ModelConfig(
    d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, vocab_size=64, seq_len=128, is_gated=True,
    activation="silu", has_scanned_layers=True,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 64, (8, MODEL.seq_len + 1)).astype(np.int32)


@functools.cache
def step(mesh=(), **fields):
    """Returns the loss and gradients of a step, and what a device sends over which axes."""
    model, mesh = dataclasses.replace(MODEL, **fields), MeshConfig(**dict(mesh))
    config = TrainConfig(model, OptimizerConfig(1e-3), (1000,), batch_size=8, mesh=mesh)

    def of_batch(params, tokens):
        logged, slopes = gradients(config, params, Batch(tokens), None)
        return logged["loss"], jax.tree.map(constrain, slopes, logical_axes(model))

    with use_mesh(make_mesh(mesh)):
        compiled = jax.jit(of_batch).lower(init_params(model, 0), TOKENS).compile(QUICK)
        sent = bytes_by_axis(collectives(parse(compiled.as_text()), mesh.sizes))
        return *jax.tree.map(np.asarray, compiled(init_params(model, 0), TOKENS)), sent


def assert_same_numbers(found, expected, rtol):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for one, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        assert np.linalg.norm(one - other) <= rtol * np.linalg.norm(other)


@pytest.mark.parametrize("axes", ["data fsdp tensor", "stage fsdp tensor"])
def test_every_device_computes_fused_attention_of_its_own_rows_heads_and_layers(axes):
    mesh = tuple((axis, 2) for axis in axes.split())
    fused, plain = (step(mesh, attention_kernel=kernel) for kernel in ("interpreted_splash", "plain"))
    assert_same_numbers(fused, plain, 1e-5)
    assert fused[2] == plain[2]  # no kernel waits for what others have


@pytest.mark.parametrize(
    ("kernel", "keeps"),
    [
        ("plain", "nothing"),
        ("plain", "attention"),
        ("plain", "products"),
        ("plain", "products_on_host"),
        ("interpreted_splash", "attention"),
    ],
)
def test_what_rematerialisation_keeps_changes_no_number(kernel, keeps):
    found = step(has_remat=True, remat_keeps=keeps, attention_kernel=kernel)
    assert_same_numbers(found, step(), 1e-6 if kernel == "plain" else 1e-5)


def test_a_platform_takes_its_own_kernel_where_the_shape_suits_and_refuses_that_of_another():
    half = dataclasses.replace(MODEL, compute_dtype="bfloat16")
    kernels = [half.on_platform(platform).attention_kernel for platform in ("cpu", "gpu", "tpu")]
    assert kernels == ["plain", "cudnn", "splash"]
    assert MODEL.on_platform("gpu").attention_kernel == "plain"  # cuDNN knows 16 bits alone
    assert dataclasses.replace(half, attention_kernel="plain").on_platform("tpu").attention_kernel == "plain"
    with pytest.raises(
        ValueError, match="attention_kernel is 'splash', which platform 'cpu' cannot run .* takes 'plain'"
    ):
        dataclasses.replace(MODEL, attention_kernel="splash").on_platform("cpu")
    with pytest.raises(ValueError, match="remat_keeps is 'products' without has_remat=True"):
        dataclasses.replace(MODEL, remat_keeps="products")


@pytest.mark.parametrize("has_documents", [False, True])
def test_a_step_for_gpus_calls_the_attention_of_cudnn_forward_and_backward(has_documents, monkeypatch):
    """Lowered alone, for no GPU is here; the library's version is all that it asks a machine for."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    mask = Mask(jnp.zeros((2, 128), jnp.int32) if has_documents else None)
    arrays = [jax.ShapeDtypeStruct((2, 128, num, 64), jnp.bfloat16) for num in (4, 2, 2)]
    slopes = jax.grad(lambda *x: jnp.sum(attend_fused("cudnn", *x, 0.1, mask).astype(jnp.float32)), (0, 1, 2))
    text = jax.jit(slopes).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" in text and "Backward" in text and "softmax" not in text.replace("fmhaSoftmax", "")
