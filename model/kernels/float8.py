"""Matrix products in 8-bit floating point, with one scale a tensor taken from its largest entry now.

Forward operands are e4m3 (3 bits of fraction), gradients e5m2 (wider range); sums are in float32. Hardware with 8-bit
products (Hopper GPUs and later) runs them as such; elsewhere they are emulated, so the numbers can be studied anywhere.

Source: Micikevicius et al. 2022 (arXiv:2209.05433).
"""

import jax
import jax.numpy as jnp


def quantise(x: jax.Array, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Returns (x / scale in dtype, float32 scale), with the largest magnitude at the largest number of dtype."""
    highest = jnp.max(jnp.abs(x)).astype(jnp.float32)
    scale = jnp.where(highest > 0, highest / float(jnp.finfo(dtype).max), 1.0)
    return (x.astype(jnp.float32) / scale).astype(dtype), scale


@jax.custom_vjp
def float8_matmul(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns x [..., D] @ weight [D, F] in x's dtype, both rounded to 8 bits first."""
    return _forward(x, weight)[0]


def _forward(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple]:
    x8, x_scale = quantise(x, jnp.float8_e4m3fn)
    weight8, weight_scale = quantise(weight, jnp.float8_e4m3fn)
    y = jnp.matmul(x8, weight8, preferred_element_type=jnp.float32) * (x_scale * weight_scale)
    empty = jnp.zeros((0,), x.dtype), jnp.zeros((0,), weight.dtype)  # only to remember the dtypes
    return y.astype(x.dtype), (x8, x_scale, weight8, weight_scale, *empty)


def _backward(kept: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x8, x_scale, weight8, weight_scale, like_x, like_weight = kept
    gradient8, scale = quantise(gradient, jnp.float8_e5m2)
    dx = jnp.matmul(gradient8, weight8.T, preferred_element_type=jnp.float32) * (scale * weight_scale)
    rows = (x8.reshape(-1, x8.shape[-1]).T, gradient8.reshape(-1, gradient8.shape[-1]))
    dweight = jnp.matmul(*rows, preferred_element_type=jnp.float32) * (scale * x_scale)
    return dx.astype(like_x.dtype), dweight.astype(like_weight.dtype)


float8_matmul.defvjp(_forward, _backward)
