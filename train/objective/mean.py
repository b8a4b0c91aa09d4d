"""The mean of a loss over targets that may weigh unequally."""

import jax
import jax.numpy as jnp


def weighted_mean(values: jax.Array, weights: jax.Array | None, axis: int | None = None) -> jax.Array:
    """Returns sum(weights * values) / sum(weights), 0 where nothing weighs anything; the plain mean without weights.

    Args:
      values: float32, one a target.
      weights: not negative, like values; or None.
      axis: to sum over; None means all.
    """
    if weights is None:
        return jnp.mean(values, axis=axis)
    total = jnp.sum(weights, axis=axis)
    return jnp.sum(weights * values, axis=axis) / jnp.where(total > 0, total, 1)
