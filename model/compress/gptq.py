"""Rounding that keeps what a matrix gives: input after input, each making good for the errors of those before it.

With second moment M of the inputs, rounding W to Q costs |S (W - Q)|^2, M = S S. Once the weights of one input are
rounded, those of the inputs that are left have a best answer in closed form, of the inverse of M (GPTQ, Frantar et al.
2022, arXiv:2210.17323, by its Cholesky factor). Each is then rounded to the nearest, so that the whole is no best of
all choices; where inputs are not correlated it is rounding to the nearest, which is.

D inputs, F outputs.
"""

import jax
import jax.numpy as jnp

from kleiber.model.compress.rounding import Rounding, nearest, scales_of

DAMPING = 0.01
"""Of the mean of M's diagonal, added to it: the published default."""


def gptq(weight: jax.Array, rounding: Rounding, moment: jax.Array) -> jax.Array:
    """Returns the rounded weight [..., D, F], in its dtype, at the scales that rounding has for it.

    Args:
      weight: [..., D, F].
      rounding: how it is stored; its axis is that of a matrix.
      moment: float32 [..., D, D], the mean of x^T x over its inputs.
    """
    if weight.ndim > 2:
        return jax.vmap(lambda each, its: gptq(each, rounding, its))(weight, moment)
    inputs, outputs = weight.shape
    scales = scales_of(weight, rounding)
    scales_DF = jnp.broadcast_to(scales, (len(scales), inputs // len(scales), outputs)).reshape(inputs, outputs)
    level = jnp.mean(jnp.diagonal(moment))
    damped = moment + jnp.where(level > 0, DAMPING * level, 1.0) * jnp.eye(inputs)
    upper_DD = jnp.linalg.cholesky(jnp.linalg.inv(damped)).T  # inverse = upper^T upper

    def step(i: jax.Array, current: jax.Array) -> jax.Array:
        chosen = nearest(current[i], scales_DF[i], rounding) * scales_DF[i]
        error = (current[i] - chosen) / upper_DD[i, i]
        return (current - upper_DD[i][:, None] * error).at[i].set(chosen)  # of the inputs before i, upper has zeros

    return jax.lax.fori_loop(0, inputs, step, weight.astype(jnp.float32)).astype(weight.dtype)
