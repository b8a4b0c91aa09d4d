"""The matrix product of activations and a weight."""

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.config import ModelConfig
from kleiber.model.kernels.float8 import float8_matmul
from kleiber.parallel.ring import context_size
from kleiber.parallel.rules import weights_are_whole

NARROW = 128
"""Width below which a turned copy of a factor costs more than it saves (measured at 512 and 2,048 rows)."""


def product(config: ModelConfig, x: jax.Array, weight: nnx.Param | jax.Array) -> jax.Array:
    """Returns x [..., D] @ weight [D, F] in x's dtype.

    The leading dimensions are flattened first: as one large matrix product XLA's CPU code is up to 1.6 times faster,
    above all in the backward pass, and other devices do not mind. A split sequence stays as it is: batch and position
    cannot be one dimension when both are split.
    """
    matrix = weight[...].astype(x.dtype)
    is_whole = weights_are_whole()  # else the compiler chooses best between the derivatives it knows
    multiply = float8_matmul if config.has_float8_products else rows_times_weight if is_whole else jnp.matmul
    if context_size() > 1:
        return multiply(x, matrix)
    return multiply(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], matrix.shape[-1])


@jax.custom_vjp
def rows_times_weight(x_RD: jax.Array, weight_DF: jax.Array) -> jax.Array:
    """Returns x @ weight; the gradient of the weight is computed so that a CPU likes it.

    That gradient sums over rows, the first dimension of both of its factors, and XLA's CPU code for such a product runs
    at half the speed of a plain one when its result has more rows than columns, or is wide. So a narrow one is made
    with the smaller size first and turned afterwards; for a wide one a factor is turned first, as an array of its own:
    x, or where that moves less, the incoming gradient and then the result.
    """
    return x_RD @ weight_DF


def _forward(x_RD: jax.Array, weight_DF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x_RD @ weight_DF, (x_RD, weight_DF)


def _backward(saved: tuple[jax.Array, jax.Array], grad_RF: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_RD, weight_DF = saved
    grad_DF = jax.lax.platform_dependent(x_RD, grad_RF, cpu=_turned_product, default=_plain_product)
    return grad_RF @ weight_DF.T, grad_DF


def _plain_product(x_RD: jax.Array, grad_RF: jax.Array) -> jax.Array:
    """Returns x^T grad as JAX would derive it."""
    return jax.lax.dot_general(grad_RF, x_RD, (((0,), (0,)), ((), ()))).T


def _turned_product(x_RD: jax.Array, grad_RF: jax.Array) -> jax.Array:
    """Returns x^T grad; the barriers keep the compiler from undoing what was turned."""
    barrier = jax.lax.optimization_barrier
    if min(x_RD.shape[1], grad_RF.shape[1]) >= NARROW:
        if grad_RF.size + x_RD.shape[1] * grad_RF.shape[1] < x_RD.size:  # less to turn: the gradient, and the result
            return barrier(barrier(grad_RF.T) @ x_RD).T
        return barrier(barrier(x_RD.T) @ grad_RF)
    if x_RD.shape[1] <= grad_RF.shape[1]:
        return barrier(jax.lax.dot_general(x_RD, grad_RF, (((0,), (0,)), ((), ()))))
    return barrier(jax.lax.dot_general(grad_RF, x_RD, (((0,), (0,)), ((), ())))).T


rows_times_weight.defvjp(_forward, _backward)
