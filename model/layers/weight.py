"""Declaring a weight: its name, shape, logical axes and initial values, side by side."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.adapters.adapted import Adapted, beside
from kleiber.model.compress.low_rank import Factored
from kleiber.model.compress.rounding import rounding_of
from kleiber.model.config import ModelConfig
from kleiber.model.parametrization import ROLE_OF_WEIGHT, rules


def declare(
    config: ModelConfig,
    rngs: nnx.Rngs,
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    num_stacked: int | None = None,
    fan_in: int | None = None,
) -> Any:
    """Returns a new weight, drawn as the rule of its role says, with an adapter beside it where the config has one, or
    as two factors where it is of low rank.

    Args:
      config: gives the parametrization and the storage dtype.
      rngs: its `params` stream draws the initial values.
      name: a key of ROLE_OF_WEIGHT; the attribute of the module that holds the weight.
      shape: sizes.
      axes: logical axis of each dimension (kleiber.parallel.rules maps them to the mesh).
      num_stacked: layers stacked in front, for scanned layers; None for one.
      fan_in: inputs of a product with this weight; None means the first size.

    Returns:
      nnx.Param [num_stacked, *shape] of config.param_dtype, with its logical axes, initial distribution and rounding as
      metadata; or Adapted or Factored, with more of them.
    """
    adapter = config.adapter
    if adapter is not None and name in adapter.matrices:
        small = beside(adapter, shape, axes)
        base = declare(replace(config, adapter=None), rngs, name, shape, axes, num_stacked, fan_in)
        return Adapted(
            base,
            {
                each: declare(config, rngs, each, of.shape, of.axes, num_stacked, of.fan_in)
                for each, of in small.items()
            },
        )
    if rank := config.ranks().get(name):
        factors = replace(config, compression=replace(config.compression, rank_share=1.0))
        left = declare(factors, rngs, "left", (shape[0], rank), (axes[0], None), num_stacked)
        return Factored(left, declare(factors, rngs, name, (rank, shape[1]), (None, axes[1]), num_stacked))
    rule = rules(config)[ROLE_OF_WEIGHT[name]]
    std = rule.init_std(fan_in or shape[0])
    if num_stacked is not None:
        shape, axes = (num_stacked, *shape), ("layers", *axes)
    if std:
        value = rule.init_mean + std * jax.random.normal(rngs.params(), shape, jnp.float32)
    else:
        value = jnp.full(shape, rule.init_mean, jnp.float32)
    rounding = rounding_of(config, name)
    further: dict[str, Any] = {} if rounding is None else {"rounding": rounding}
    value = value.astype(config.param_dtype)
    return nnx.Param(value, logical_axes=axes, init_mean=rule.init_mean, init_std=std, called=name, **further)
