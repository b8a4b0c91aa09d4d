"""The matrix product of activations and a weight."""

import jax
from flax import nnx

from kleiber.parallel.ring import context_size


def product(x: jax.Array, weight: nnx.Param | jax.Array) -> jax.Array:
    """Returns x [..., D] @ weight [D, F] in x's dtype.

    The leading dimensions are flattened first: as one large matrix product XLA's CPU code is up to 1.6 times faster,
    above all in the backward pass, and other devices do not mind. A split sequence stays as it is: batch and position
    cannot be one dimension when both are split.
    """
    matrix = weight[...].astype(x.dtype)
    if context_size() > 1:
        return x @ matrix
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])
