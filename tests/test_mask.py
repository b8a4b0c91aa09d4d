"""What a query of attention sees, and where it stands: against masks and rotations written out."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kleiber.model.config import ModelConfig
from kleiber.model.families.decoder import Transformer
from kleiber.model.layers.attention import Attention, attend, rotate
from kleiber.model.layers.embedding import fill
from kleiber.model.layers.mask import Mask
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh

DRAW = np.random.default_rng(0)
Q, K, V = DRAW.standard_normal((3, 2, 12, 2, 6)).astype(np.float32)
SEGMENTS = np.sort(DRAW.integers(0, 3, (2, 12)), axis=1)
CONFIG = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=12, seq_len=8, parametrization="standard")


def plain(seen_BTS):
    scores = np.where(seen_BTS[:, None], 0.5 * np.einsum("btnh,bsnh->bnts", Q, K), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), V)


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one document", "documents"])
def test_attention_sees_what_its_mask_lets_it_see(segments, is_causal, chunks):
    seen = np.tril(np.ones((12, 12), bool)) if is_causal else np.ones((12, 12), bool)
    same = np.ones((2, 12, 12), bool) if segments is None else segments[:, :, None] == segments[:, None]
    got = attend(Q, K, V, 0.5, Mask(segments, is_causal), chunks)
    np.testing.assert_allclose(got, plain(seen & same), atol=1e-5)


def test_positions_that_are_counted_up_are_those_of_none():
    counted = jnp.broadcast_to(jnp.arange(12), (2, 12))
    np.testing.assert_allclose(rotate(Q, counted), rotate(Q), atol=1e-5)


def test_a_query_alone_is_turned_by_the_position_it_is_given():
    alone = rotate(Q[:, 7:8], jnp.full((2, 1), 7))
    np.testing.assert_allclose(alone[:, 0], rotate(Q)[:, 7], atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_positions_that_begin_anew_make_two_documents_of_a_row_what_they_are_alone(positions):
    model = Transformer(dataclasses.replace(CONFIG, positions=positions), nnx.Rngs(0))
    tokens = jnp.asarray(DRAW.integers(0, 12, (1, 8)))
    documents, places = jnp.array([[0] * 3 + [1] * 5]), jnp.array([[0, 1, 2, 0, 1, 2, 3, 4]])
    logits = nnx.jit(lambda model, *given: model(*given))  # one program a shape, not one an operation
    both = logits(model, tokens, documents, places)
    np.testing.assert_allclose(both[:, 3:], logits(model, tokens[:, 3:]), atol=1e-5)
    np.testing.assert_allclose(both[:, :3], logits(model, tokens[:, :3]), atol=1e-5)


def test_a_ring_refuses_to_look_both_ways():
    layer = Attention(CONFIG, nnx.Rngs(0))
    with use_mesh(make_mesh(MeshConfig(context=2))), pytest.raises(ValueError, match="the ring is causal"):
        layer(jnp.zeros((1, 8, 16)), Mask(is_causal=False))


def test_encoders_fill_the_places_they_name():
    tokens, images = jnp.zeros((2, 5, 3)), jnp.arange(12.0).reshape(2, 2, 3) + 1
    x = fill([(tokens, None), (images, jnp.array([[0, 1], [2, 4]]))])
    np.testing.assert_array_equal(x[0, :2], images[0])
    np.testing.assert_array_equal(x[1, jnp.array([2, 4])], images[1])
    assert not x[0, 2:].any() and not x[1, jnp.array([0, 1, 3])].any()
    assert fill([(tokens, None)]) is tokens
