"""Compression of a whole tree of weights, as pure functions of it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.compress.pruning import global_threshold, kept
from kleiber.model.compress.rounding import rounded, rounding_of
from kleiber.model.config import ModelConfig
from kleiber.model.parametrization import ROLE_OF_WEIGHT, name_of


def compress(config: ModelConfig, params: Any) -> Any:
    """Returns the tree of weights as the layers of config read it: each rounded as config.compression says."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: rounded(leaf, rounding_of(config, name_of(path))), params
    )


def is_pruned(config: ModelConfig, params: Any) -> Any:
    """Returns, in the shape of the tree, which weights config.compression takes entries from."""
    roles = ("query", "hidden", "output") if config.compression.sparsity else ()
    return jax.tree_util.tree_map_with_path(lambda path, _: ROLE_OF_WEIGHT[name_of(path)] in roles, params)


def prune(config: ModelConfig, params: Any) -> Any:
    """Returns the tree of weights with the share config.compression.sparsity of those inside the layers at zero."""
    compression, chosen = config.compression, is_pruned(config, params)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(chosen), strict=True)
    weights = [leaf for leaf, is_chosen in pairs if is_chosen]
    threshold = global_threshold(weights, compression) if weights and compression.pattern == "global" else None

    def one(leaf: jax.Array, is_chosen: bool) -> jax.Array:
        return jnp.where(kept(leaf, compression, threshold), leaf, 0).astype(leaf.dtype) if is_chosen else leaf

    return jax.tree.map(one, params, chosen)


def begin(before: ModelConfig, model: ModelConfig, params: Any, is_population: bool = False) -> Any:
    """Returns the weights with which a model goes on from those of another of its shape: pruned where only it is.

    Args:
      before: whose weights they are.
      model: that goes on with them.
      params: tree of weights.
      is_population: whether each has a leading member axis.

    Raises:
      ValueError: the two differ in compression, and that changes no weight.
    """
    if model.compression == before.compression or model.compression.is_none:
        return params
    begun = params
    if model.compression.sparsity != before.compression.sparsity:
        one = partial(prune, model)
        shardings = jax.tree.map(lambda array: array.sharding, params)
        begun = jax.jit(jax.vmap(one) if is_population else one, out_shardings=shardings)(params)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(compress(model, begun)), strict=True)
    if not any(bool(jnp.any(a != b)) for a, b in pairs):
        raise ValueError(
            f"{model.compression} changes no weight, so that its level would be that of none: they are as coarse and "
            f"as sparse already. Choose fewer bits or more sparsity."
        )
    return begun
