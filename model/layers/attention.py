"""Causal attention: multi-head and grouped-query, rotary positions, optional query-key norm.

B batch, T query position, S key position, D model width, N query heads, K key/value heads, G query heads per
key/value head (N = K * G), H head size.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kleiber.model.config import ModelConfig
from kleiber.model.layers.norm import rms_normalise
from kleiber.model.layers.product import product
from kleiber.model.layers.weight import declare
from kleiber.model.parametrization import attention_scale
from kleiber.parallel.ring import context_size, ring_attention
from kleiber.parallel.rules import constrain, weights_are_whole

ROTARY_BASE = 10_000.0  # longest wavelength over 2 pi, in tokens; Su et al. 2021 (arXiv:2104.09864)
MASKED = -1e30  # finite, so that a gradient through a masked score is zero and never NaN


def rotate(x_BTNH: jax.Array) -> jax.Array:
    """Returns x with each pair (h, h + H/2) turned by position / ROTARY_BASE^(2h/H).

    The product of a rotated query and a rotated key depends on their positions through the distance alone.

    Args:
      x_BTNH: queries or keys, positions 0 .. T-1.

    Returns:
      Array like x_BTNH.
    """
    length, half = x_BTNH.shape[1], x_BTNH.shape[3] // 2
    angle_TH = np.arange(length)[:, None] * ROTARY_BASE ** -(np.arange(half) / half)
    cos_TNH = jnp.asarray(np.cos(angle_TH)[:, None, :], x_BTNH.dtype)
    sin_TNH = jnp.asarray(np.sin(angle_TH)[:, None, :], x_BTNH.dtype)
    first, second = x_BTNH[..., :half], x_BTNH[..., half:]
    return jnp.concatenate([first * cos_TNH - second * sin_TNH, second * cos_TNH + first * sin_TNH], axis=-1)


def causal_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    scale: float,
    segment_ids_BT: jax.Array | None = None,
    num_blocks: int = 1,
) -> jax.Array:
    """Returns softmax(scale * q k) v, where a query sees itself and what came before in its own segment.

    Queries are cut into num_blocks blocks and each block meets only the keys up to its own end, so the part of the
    square above the blocks' corners is never computed: (num_blocks - 1) / (2 num_blocks) of it. The numbers are those
    of one block.

    Args:
      q_BTNH: queries; N is a multiple of K, and query head n reads key/value head n // (N / K).
      k_BSKH: keys, S = T.
      v_BSKH: values.
      scale: factor on the query-key products.
      segment_ids_BT: integer document of each position; None for one document a row.
      num_blocks: blocks of queries.

    Returns:
      Array [B, T, N, H] in q's dtype.
    """
    length = q_BTNH.shape[1]
    ends = [length * (block + 1) // num_blocks for block in range(num_blocks)]
    blocks = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        mask_BTS = jnp.asarray(np.arange(start, end)[:, None] >= np.arange(end)[None, :])[None]
        if segment_ids_BT is not None:
            mask_BTS = mask_BTS & (segment_ids_BT[:, start:end, None] == segment_ids_BT[:, None, :end])
        blocks.append(_attend(q_BTNH[:, start:end], k_BSKH[:, :end], v_BSKH[:, :end], scale, mask_BTS))
    return jnp.concatenate(blocks, axis=1) if num_blocks > 1 else blocks[0]


def _attend(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, scale: float, mask_BTS: jax.Array) -> jax.Array:
    """Attention of one block of queries over the keys it may see."""
    batch, length, num_heads, d_head = q_BTNH.shape
    num_kv_heads = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(batch, length, num_kv_heads, num_heads // num_kv_heads, d_head)
    # Made out here, where a trace shows the name; their gradient reaches q and k through the function below.
    scores_BKGTS = _einsum("BTKGH,BSKH->BKGTS", *jax.lax.stop_gradient((q_BTKGH * scale, k_BSKH)))
    scores_BKGTS = checkpoint_name(scores_BKGTS, "scores")
    is_whole = weights_are_whole()
    return _weighted_values(scale, is_whole, scores_BKGTS, mask_BTS, q_BTKGH, k_BSKH, v_BSKH).reshape(q_BTNH.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted_values(
    scale: float,
    is_whole: bool,
    scores_BKGTS: jax.Array,
    mask_BTS: jax.Array,
    q_BTKGH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
) -> jax.Array:
    """Returns softmax(scores) v [B, T, K, G, H]; its derivative, by hand, carries that of the scores to q and k.

    The gradient of a score is weight * (its own slope - the mean slope of its row), and that mean is a product of the
    output with the gradient of the output (Dao et al. 2022, arXiv:2205.14135, appendix B): sums over H in place of S.

    Args:
      scale: factor that the scores already hold.
      is_whole: whether each device holds all heads.
      scores_BKGTS: float32.
      mask_BTS: whether a query sees a key.
      q_BTKGH: queries, for the derivative alone.
      k_BSKH: keys, likewise.
      v_BSKH: values.
    """
    return _weigh(scale, is_whole, scores_BKGTS, mask_BTS, q_BTKGH, k_BSKH, v_BSKH)[0]


def _weigh(scale, is_whole, scores_BKGTS, mask_BTS, q_BTKGH, k_BSKH, v_BSKH):
    # Softmax in float32: sums of many small bfloat16 probabilities lose several digits.
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, MASKED)
    weights_BKGTS = jnp.exp(scores_BKGTS - jnp.max(scores_BKGTS, axis=-1, keepdims=True))
    total_BTKG = jnp.moveaxis(jnp.sum(weights_BKGTS, axis=-1), 3, 1)
    # Dividing after the product touches T * H numbers in place of T * S: up to a fifth of a whole step at d_model 24.
    inverse_BTKGH = _over_head(1 / total_BTKG, q_BTKGH.shape, is_whole)
    out_BTKGH = _einsum("BKGTS,BSKH->BTKGH", weights_BKGTS.astype(v_BSKH.dtype), v_BSKH) * inverse_BTKGH
    out_BTKGH = out_BTKGH.astype(v_BSKH.dtype)
    return out_BTKGH, (weights_BKGTS, inverse_BTKGH, q_BTKGH, k_BSKH, v_BSKH, out_BTKGH)


def _weigh_backward(scale, is_whole, saved, grad_BTKGH):
    weights_BKGTS, inverse_BTKGH, q_BTKGH, k_BSKH, v_BSKH, out_BTKGH = saved
    dtype = v_BSKH.dtype
    grad_BTKGH = grad_BTKGH * inverse_BTKGH
    mean_BKGT = jnp.moveaxis(_sum_of_head(grad_BTKGH * out_BTKGH, is_whole), 1, 3)
    grad_BTKGH = grad_BTKGH.astype(dtype)
    grad_v_BSKH = _einsum("BKGTS,BTKGH->BSKH", weights_BKGTS.astype(dtype), grad_BTKGH)
    slopes_BKGTS = _einsum("BTKGH,BSKH->BKGTS", grad_BTKGH, v_BSKH)
    grad_BKGTS = (weights_BKGTS * (slopes_BKGTS - mean_BKGT[..., None])).astype(dtype)
    grad_q_BTKGH = _einsum("BKGTS,BSKH->BTKGH", grad_BKGTS, k_BSKH) * scale
    grad_k_BSKH = _einsum("BKGTS,BTKGH->BSKH", grad_BKGTS, q_BTKGH) * scale
    return None, None, grad_q_BTKGH.astype(dtype), grad_k_BSKH.astype(dtype), grad_v_BSKH.astype(dtype)


_weighted_values.defvjp(_weigh, _weigh_backward)


def _einsum(dimensions: str, one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.einsum(dimensions, one, other, preferred_element_type=jnp.float32)


def _over_head(x_BTKG: jax.Array, shape: tuple[int, ...], is_whole: bool) -> jax.Array:
    """Returns x repeated over the columns of each head, [B, T, K, G, H].

    On CPU, with whole heads, as a product with zeros and ones: exact, and XLA's CPU code adds the few columns of a head
    up, which is the derivative, ten times slower than it multiplies.
    """

    def repeat(x_BTKG: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x_BTKG[..., None], shape)

    def multiply(x_BTKG: jax.Array) -> jax.Array:
        return (x_BTKG.reshape(shape[0] * shape[1], -1) @ _columns_of_heads(shape)).reshape(shape)

    return jax.lax.platform_dependent(x_BTKG, cpu=multiply, default=repeat) if is_whole else repeat(x_BTKG)


def _sum_of_head(x_BTKGH: jax.Array, is_whole: bool) -> jax.Array:
    """Returns the sum over H, made in the same way."""
    shape = x_BTKGH.shape

    def add_up(x_BTKGH: jax.Array) -> jax.Array:
        return jnp.sum(x_BTKGH, axis=-1)

    def multiply(x_BTKGH: jax.Array) -> jax.Array:
        return (x_BTKGH.reshape(shape[0] * shape[1], -1) @ _columns_of_heads(shape).T).reshape(shape[:-1])

    return jax.lax.platform_dependent(x_BTKGH, cpu=multiply, default=add_up) if is_whole else add_up(x_BTKGH)


def _columns_of_heads(shape: tuple[int, ...]) -> jax.Array:
    """Returns float32 [N, N H]: one where a column belongs to a head."""
    return jnp.asarray(np.repeat(np.eye(shape[2] * shape[3], dtype=np.float32), shape[4], axis=1))


class Attention(nnx.Module):
    """Queries, keys and values of x, causal attention, and the projection back to the residual stream."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, num_stacked: int | None = None):
        self.config = config
        d_model, d_query, d_kv = config.d_model, config.num_heads * config.d_head, config.kv_heads * config.d_head
        self.query = declare(config, rngs, "query", (d_model, d_query), ("embed", "heads"), num_stacked)
        self.key = declare(config, rngs, "key", (d_model, d_kv), ("embed", "kv_heads"), num_stacked)
        self.value = declare(config, rngs, "value", (d_model, d_kv), ("embed", "kv_heads"), num_stacked)
        self.output = declare(config, rngs, "output", (d_query, d_model), ("heads", "embed"), num_stacked)

    def __call__(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None = None) -> jax.Array:
        """Returns what the attention of one block adds to x, before the branch multiplier."""
        batch, length, _ = x_BTD.shape
        heads = (batch, length, -1, self.config.d_head)
        q_BTNH = product(self.config, x_BTD, self.query).reshape(heads)
        k_BSKH = product(self.config, x_BTD, self.key).reshape(heads)
        v_BSKH = product(self.config, x_BTD, self.value).reshape(heads)
        if self.config.has_qk_norm:
            q_BTNH, k_BSKH = rms_normalise(q_BTNH), rms_normalise(k_BSKH)
        if self.config.positions == "rotary":
            q_BTNH, k_BSKH = rotate(q_BTNH), rotate(k_BSKH)
        q_BTNH, k_BSKH = checkpoint_name(q_BTNH, "query"), checkpoint_name(k_BSKH, "key")
        q_BTNH = constrain(q_BTNH, ("batch", "seq", "heads", None))
        k_BSKH, v_BSKH = (constrain(x, ("batch", "seq", "kv_heads", None)) for x in (k_BSKH, v_BSKH))
        scale = attention_scale(self.config)
        if context_size() > 1:
            out_BTNH = ring_attention(q_BTNH, k_BSKH, v_BSKH, scale, segment_ids_BT)
        else:
            blocks = self.config.attention_blocks
            out_BTNH = causal_attention(q_BTNH, k_BSKH, v_BSKH, scale, segment_ids_BT, blocks)
        return product(self.config, out_BTNH.reshape(batch, length, -1), self.output)
