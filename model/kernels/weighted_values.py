"""Attention's weighted values with a derivative by hand: softmax of the scores, times the values.

B batch, T query position, S key position, K key/value heads, G query heads per key/value head, H head size.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

MASKED = -1e30  # finite, so that a gradient through a masked score is zero and never NaN


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def weighted_values(
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
    out_BTKGH = float32_einsum("BKGTS,BSKH->BTKGH", weights_BKGTS.astype(v_BSKH.dtype), v_BSKH) * inverse_BTKGH
    out_BTKGH = checkpoint_name(out_BTKGH.astype(v_BSKH.dtype), "attended")
    return out_BTKGH, (weights_BKGTS, inverse_BTKGH, q_BTKGH, k_BSKH, v_BSKH, out_BTKGH)


def _weigh_backward(scale, is_whole, saved, grad_BTKGH):
    weights_BKGTS, inverse_BTKGH, q_BTKGH, k_BSKH, v_BSKH, out_BTKGH = saved
    dtype = v_BSKH.dtype
    grad_BTKGH = grad_BTKGH * inverse_BTKGH
    mean_BKGT = jnp.moveaxis(_sum_of_head(grad_BTKGH * out_BTKGH, is_whole), 1, 3)
    grad_BTKGH = grad_BTKGH.astype(dtype)
    grad_v_BSKH = float32_einsum("BKGTS,BTKGH->BSKH", weights_BKGTS.astype(dtype), grad_BTKGH)
    slopes_BKGTS = float32_einsum("BTKGH,BSKH->BKGTS", grad_BTKGH, v_BSKH)
    grad_BKGTS = (weights_BKGTS * (slopes_BKGTS - mean_BKGT[..., None])).astype(dtype)
    grad_q_BTKGH = float32_einsum("BKGTS,BSKH->BTKGH", grad_BKGTS, k_BSKH) * scale
    grad_k_BSKH = float32_einsum("BKGTS,BTKGH->BSKH", grad_BKGTS, q_BTKGH) * scale
    return None, None, grad_q_BTKGH.astype(dtype), grad_k_BSKH.astype(dtype), grad_v_BSKH.astype(dtype)


weighted_values.defvjp(_weigh, _weigh_backward)


def float32_einsum(dimensions: str, one: jax.Array, other: jax.Array) -> jax.Array:
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
