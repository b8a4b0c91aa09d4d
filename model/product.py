"""The matrix product of activations and a weight."""

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.config import ModelConfig
from kleiber.model.float8 import float8_matmul
from kleiber.parallel.ring import context_size


def product(config: ModelConfig, x: jax.Array, weight: nnx.Param | jax.Array) -> jax.Array:
    """Returns x [..., D] @ weight [D, F] in x's dtype.

    The leading dimensions are flattened first: as one large matrix product XLA's CPU code is up to 1.6 times faster,
    above all in the backward pass, and other devices do not mind. A split sequence stays as it is: batch and position
    cannot be one dimension when both are split.
    """
    matrix = weight[...].astype(x.dtype)
    matmul = float8_matmul if config.has_float8_products else jnp.matmul
    if context_size() > 1:
        return matmul(x, matrix)
    return matmul(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], matrix.shape[-1])
