"""The product of rows and a weight, with a derivative that a CPU likes.

R rows, D inputs, F outputs.
"""

import jax

NARROW = 128
"""Width below which a turned copy of a factor costs more than it saves (measured at 512 and 2,048 rows)."""


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
