"""Attention: multi-head and grouped-query, rotary positions, optional query-key norm.

B batch, T query position, S key position, D model width, N query heads, K key/value heads, G query heads per
key/value head (N = K * G), H head size.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kleiber.model.config import ModelConfig
from kleiber.model.kernels.fused_attention import FUSED
from kleiber.model.kernels.weighted_values import MASKED, float32_einsum, weighted_values
from kleiber.model.layers.mask import Mask
from kleiber.model.layers.norm import rms_normalise
from kleiber.model.layers.product import product, read
from kleiber.model.layers.weight import declare
from kleiber.model.parametrization import attention_scale
from kleiber.parallel.ring import context_size, ring_attention
from kleiber.parallel.rules import constrain, on_own_parts, weights_are_whole


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Memory:
    """Keys and values of the positions that a layer has read, of S places each. Heads stand before places, as the two
    products of attention want them: in the other order XLA's CPU code turns all of both round at every token."""

    keys_BKSH: jax.Array
    values_BKSH: jax.Array

    def with_entries(self, k_BTKH: jax.Array, v_BTKH: jax.Array, place: jax.Array) -> "Memory":
        """Returns it with T further entries from a place on, one for all rows: a plain update, which XLA makes where
        the memory lies; a place for each row would be a scatter, five times as slow on CPU."""

        def put(held: jax.Array, new: jax.Array) -> jax.Array:
            new = jnp.swapaxes(new, 1, 2).astype(held.dtype)
            return jax.lax.dynamic_update_slice_in_dim(held, new, place, axis=2)

        return Memory(put(self.keys_BKSH, k_BTKH), put(self.values_BKSH, v_BTKH))


class KeysAndValues(NamedTuple):
    """Keys and values of a sequence of S places that is read as a whole, as one is by cross-attention."""

    keys_BSKH: jax.Array
    values_BSKH: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Recall:
    """How new entries read a memory."""

    mask_BTS: jax.Array
    """Whether each sees what lies at a place."""
    place: jax.Array
    """int32, where the first of them goes."""


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array | None = None, base: float = 10_000.0) -> jax.Array:
    """Returns x with each pair (h, h + H/2) turned by position / base^(2h/H); positions_BT None means 0 .. T-1.

    The product of a rotated query and a rotated key depends on their positions through the distance alone (Su et al.
    2021, arXiv:2104.09864). Of a grid, positions [B, T, 2], the first half of the pairs turns by the row, the
    other by the column."""
    half = x_BTNH.shape[3] // 2
    is_grid = positions_BT is not None and positions_BT.ndim == 3
    of_axis = half // 2 if is_grid else half
    turns_H = base ** -(np.arange(of_axis) / of_axis)
    turned: tuple[Any, Any]
    if positions_BT is None:  # in float64, once, while compiling
        angle_TH = np.arange(x_BTNH.shape[1])[:, None] * turns_H
        turned = np.cos(angle_TH), np.sin(angle_TH)
    else:
        angle_BTH = positions_BT[..., None] * turns_H.astype(np.float32)
        if is_grid:  # [B, T, 2, H]
            angle_BTH = angle_BTH.reshape(*angle_BTH.shape[:2], half)
        turned = jnp.cos(angle_BTH), jnp.sin(angle_BTH)
    cos_TNH, sin_TNH = (jnp.asarray(part[..., None, :], x_BTNH.dtype) for part in turned)
    first, second = x_BTNH[..., :half], x_BTNH[..., half:]
    return jnp.concatenate([first * cos_TNH - second * sin_TNH, second * cos_TNH + first * sin_TNH], axis=-1)


def attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, scale: float, mask: Mask, query_chunks: int = 1
) -> jax.Array:
    """Returns softmax(scale * q k) v over the keys that the mask lets a query see.

    Queries are cut into chunks. Under a causal mask each meets only the keys up to its own end, so the part
    of the square above the chunks' corners is never computed: (query_chunks - 1) / (2 query_chunks) of it. The numbers
    are those of one chunk.

    Args:
      q_BTNH: queries; N is a multiple of K, and query head n reads key/value head n // (N / K).
      k_BSKH: keys.
      v_BSKH: values.
      scale: factor on the query-key products.
      mask: which keys a query sees.
      query_chunks: chunks of queries.

    Returns:
      Array [B, T, N, H] in q's dtype.
    """
    length = q_BTNH.shape[1]
    ends = [length * (chunk + 1) // query_chunks for chunk in range(query_chunks)]
    chunks = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        mask_BTS = mask.of_queries(start, end, k_BSKH.shape[1])
        seen = mask_BTS.shape[2]
        chunks.append(_attend_chunk(q_BTNH[:, start:end], k_BSKH[:, :seen], v_BSKH[:, :seen], scale, mask_BTS))
    return jnp.concatenate(chunks, axis=1) if query_chunks > 1 else chunks[0]


def _attend_chunk(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, scale: float, mask_BTS: jax.Array
) -> jax.Array:
    """Attention of one chunk of queries over the keys that any of them may see."""
    batch, length, num_heads, d_head = q_BTNH.shape
    num_kv_heads = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(batch, length, num_kv_heads, num_heads // num_kv_heads, d_head)
    # Made out here, where a trace shows the name; their gradient reaches q and k through the function below.
    scores_BKGTS = float32_einsum("BTKGH,BSKH->BKGTS", *jax.lax.stop_gradient((q_BTKGH * scale, k_BSKH)))
    scores_BKGTS = checkpoint_name(scores_BKGTS, "scores")
    out_BTKGH = weighted_values(scale, weights_are_whole(), scores_BKGTS, mask_BTS, q_BTKGH, k_BSKH, v_BSKH)
    return out_BTKGH.reshape(q_BTNH.shape)


def attend_memory(q_BTNH: jax.Array, memory: Memory, scale: float, mask_BTS: jax.Array) -> jax.Array:
    """Returns softmax(scale * q k) v [B, T, N, H] over the places that the mask lets a query see; it has no gradient of
    its own."""
    batch, length, num_heads, d_head = q_BTNH.shape
    q_BTKGH = (q_BTNH * scale).reshape(batch, length, memory.keys_BKSH.shape[1], -1, d_head)
    scores_BKTGS = float32_einsum("BTKGH,BKSH->BKTGS", q_BTKGH, memory.keys_BKSH)
    weights_BKTGS = jax.nn.softmax(jnp.where(mask_BTS[:, None, :, None], scores_BKTGS, MASKED), axis=-1)
    weights_BKTGS = weights_BKTGS.astype(memory.values_BKSH.dtype)
    out_BTKGH = float32_einsum("BKTGS,BKSH->BTKGH", weights_BKTGS, memory.values_BKSH)
    return out_BTKGH.reshape(q_BTNH.shape).astype(q_BTNH.dtype)


def attend_fused(
    kernel: str, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, scale: float, mask: Mask
) -> jax.Array:
    """Returns what attend returns, by a kernel of FUSED, each device with its own rows and heads."""
    function = functools.partial(FUSED[kernel], scale=scale, is_causal=mask.is_causal)
    arrays = [q_BTNH, k_BSKH, v_BSKH]
    axes: list[tuple[str | None, ...]] = [("batch", None, name, None) for name in ("heads", "kv_heads", "kv_heads")]
    if mask.segment_ids_BS is not None:
        arrays, axes = [*arrays, mask.segment_ids_BS], [*axes, ("batch", None)]
    return on_own_parts(function, axes, axes[0])(*arrays)


class Attention(nnx.Module):
    """Queries, keys and values of x, attention, and the projection back to the residual stream."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, num_stacked: int | None = None):
        self.config = config
        d_model, d_query, d_kv = config.d_model, config.num_heads * config.d_head, config.kv_heads * config.d_head
        self.query = declare(config, rngs, "query", (d_model, d_query), ("embed", "heads"), num_stacked)
        self.key = declare(config, rngs, "key", (d_model, d_kv), ("embed", "kv_heads"), num_stacked)
        self.value = declare(config, rngs, "value", (d_model, d_kv), ("embed", "kv_heads"), num_stacked)
        self.output = declare(config, rngs, "output", (d_query, d_model), ("heads", "embed"), num_stacked)
        if config.has_qk_norm_gain:
            self.query_gain = declare(config, rngs, "query_gain", (config.d_head,), (None,), num_stacked)
            self.key_gain = declare(config, rngs, "key_gain", (config.d_head,), (None,), num_stacked)

    def keys_and_values(self, x_BSD: jax.Array, positions_BS: jax.Array | None = None) -> KeysAndValues:
        """Returns what queries meet of a sequence; positions_BS None means 0 .. S-1."""
        k_BSKH, v_BSKH = (self._heads(x_BSD, weight) for weight in (self.key, self.value))
        k_BSKH = checkpoint_name(self._placed(k_BSKH, "key_gain", positions_BS), "key")
        v_BSKH = checkpoint_name(v_BSKH, "value")
        return KeysAndValues(*(constrain(x, ("batch", "seq", "kv_heads", None)) for x in (k_BSKH, v_BSKH)))

    def __call__(
        self,
        x_BTD: jax.Array,
        mask: Mask | Recall,
        positions_BT: jax.Array | None = None,
        memory: Memory | KeysAndValues | None = None,
    ) -> tuple[jax.Array, Any]:
        """Returns what the attention of one layer adds to x, before the branch multiplier, and the memory with x in it.

        positions_BT is the integer position of each entry of a row, None for 0 .. T-1. With a memory and a Recall x
        comes after what the memory holds. KeysAndValues are of another sequence, which x reads and does not enter:
        cross-attention."""
        batch, length, _ = x_BTD.shape
        q_BTNH = self._placed(self._heads(x_BTD, self.query), "query_gain", positions_BT)
        q_BTNH = constrain(checkpoint_name(q_BTNH, "query"), ("batch", "seq", "heads", None))
        met = memory if isinstance(memory, KeysAndValues) else self.keys_and_values(x_BTD, positions_BT)
        k_BSKH, v_BSKH = met
        scale, kernel = attention_scale(self.config), self.config.attention_kernel
        if kernel is None:  # a step compiled for other devices than those attached says which
            kernel = self.config.on_platform(jax.default_backend()).attention_kernel
        if isinstance(mask, Recall):
            assert isinstance(memory, Memory), "a Recall reads a memory"
            memory = memory.with_entries(k_BSKH, v_BSKH, mask.place)
            out_BTNH = attend_memory(q_BTNH, memory, scale, mask.mask_BTS)
        elif met is memory:
            out_BTNH = attend(q_BTNH, k_BSKH, v_BSKH, scale, mask)
        elif context_size() == 1:
            # The kernels know documents, and no keys that all of them see.
            if kernel in FUSED and not (mask.num_shared and mask.segment_ids_BS is not None):
                out_BTNH = attend_fused(kernel, q_BTNH, k_BSKH, v_BSKH, scale, mask)
            else:
                out_BTNH = attend(q_BTNH, k_BSKH, v_BSKH, scale, mask, query_chunks=self.config.attention_blocks)
        elif mask.is_causal:
            out_BTNH = ring_attention(q_BTNH, k_BSKH, v_BSKH, scale, mask.segment_ids_BS)
        else:
            raise ValueError("attention both ways over a mesh with context > 1: the ring is causal; set context=1.")
        return product(self.config, out_BTNH.reshape(batch, length, -1), self.output), memory

    def _heads(self, x_BTD: jax.Array, weight: nnx.Param) -> jax.Array:
        """Returns the product of x with a weight, cut into heads [B, T, N, H]."""
        return product(self.config, x_BTD, weight).reshape(*x_BTD.shape[:2], -1, self.config.d_head)

    def _placed(self, x_BTNH: jax.Array, gain: str, positions_BT: jax.Array | None) -> jax.Array:
        """Returns queries or keys normalised, with their gain, and turned by their positions, as the config has it."""
        if self.config.has_qk_norm:
            x_BTNH = rms_normalise(x_BTNH, self.config.norm_epsilon)
        if self.config.has_qk_norm_gain:
            x_BTNH = x_BTNH * read(getattr(self, gain), x_BTNH.dtype)
        return rotate(x_BTNH, positions_BT, self.config.rotary_base) if self.config.positions == "rotary" else x_BTNH
