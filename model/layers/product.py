"""Where every weight meets its input: the only file that reads the values of a matrix or a table.

A layer hands its weight over and gets the product, so what a weight is (an array; of low rank, quantised, masked, with
an adapter beside it) is a matter of this file alone, and so is whether each device holds all of it.

D inputs, F outputs, V entries of a table; R rows, all leading dimensions as one.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.adapters.adapted import Adapted, product_with
from kleiber.model.compress.low_rank import Factored
from kleiber.model.compress.observed import observe
from kleiber.model.compress.rounding import rounded
from kleiber.model.config import ModelConfig
from kleiber.model.kernels.float8 import float8_matmul
from kleiber.model.kernels.rows_times_weight import rows_times_weight
from kleiber.parallel.ring import context_size
from kleiber.parallel.rules import constrain, weights_are_whole


def read(weight: nnx.Param, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns the values of a weight, rounded where it was declared so, in the dtype of a product."""
    return rounded(weight[...], weight.get_metadata().get("rounding")).astype(dtype)


def product(config: ModelConfig, x: jax.Array, weight: nnx.Param | Adapted | Factored) -> jax.Array:
    """Returns x [..., D] @ weight [D, F] in x's dtype, and what an adapter beside it adds."""
    if isinstance(weight, Factored):
        return product(config, product(config, x, weight.left), weight.right)
    if isinstance(weight, Adapted):
        assert config.adapter is not None
        return product_with(config.adapter, x, weight, partial(product, config), read)
    observe(weight.get_metadata()["called"], x)
    # Split weights: the compiler chooses best between the derivatives it knows.
    plain = rows_times_weight if weights_are_whole() else jnp.matmul
    return _of_rows(float8_matmul if config.has_float8_products else plain, x, read(weight, x.dtype))


def scores(x: jax.Array, weight: nnx.Param, is_table: bool = False) -> jax.Array:
    """Returns x [..., D] @ weight [D, F] summed in float32; of a table [F, D], x's products with its entries."""
    matrix = read(weight, x.dtype)
    is_plain = x.dtype == jnp.float32 and weights_are_whole()
    multiply = rows_times_weight if is_plain else partial(jnp.matmul, preferred_element_type=jnp.float32)
    return _of_rows(multiply, x, matrix.T if is_table else matrix)


def contraction(dimensions: str, x: jax.Array, weight: nnx.Param) -> jax.Array:
    """Returns the einsum of x and a weight of any rank in x's dtype, such as "BGECD,EDF->BGECF" of experts."""
    return jnp.einsum(dimensions, x, read(weight, x.dtype))


def look_up(table: nnx.Param, entries: jax.Array | slice, dtype: str, axis: str | None = None) -> jax.Array:
    """Returns entries of a table [V, D] as [..., D].

    Args:
      table: the weight.
      entries: integer numbers, or a slice of them.
      dtype: of the result.
      axis: logical axis of V, where D is to be whole: gathered over fsdp as any weight is, so that looking up leaves
        the batch split as it is. None leaves the table as it lies.
    """
    values = read(table, dtype)
    return (values if axis is None else constrain(values, (axis, None)))[entries]


def _of_rows(multiply: Callable[..., jax.Array], x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns multiply(x, matrix) with the leading dimensions of x flattened.

    As one large matrix product XLA's CPU code is up to 1.6 times faster, above all in the backward pass, and other
    devices do not mind. A split sequence stays as it is: batch and position, both split, cannot be one dimension.
    """
    if context_size() > 1:
        return multiply(x, matrix)
    return multiply(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], matrix.shape[-1])
