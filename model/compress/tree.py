"""Compression of a whole tree of weights, as pure functions of it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.compress.gptq import gptq
from kleiber.model.compress.low_rank import factors
from kleiber.model.compress.pruning import global_threshold, kept
from kleiber.model.compress.rounding import rounded, rounding_of, stored_as
from kleiber.model.config import ModelConfig
from kleiber.model.parametrization import ROLE_OF_WEIGHT, name_of

Moments = dict[str, jax.Array]
"""Mean x^T x of the inputs of each matrix, [D, D], by the path of the matrix."""


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


def factor(config: ModelConfig, params: Any, moments: Moments | None) -> Any:
    """Returns the tree of weights with two factors in the place of each matrix that config has of low rank.

    Args:
      config: with ranks.
      params: tree of whole matrices.
      moments: of their inputs, by path; None for the plain approximation.
    """
    ranks = config.ranks()

    def walk(tree: Any, path: str) -> Any:
        name = path.rpartition("/")[2]
        if isinstance(tree, dict):
            return {each: walk(inner, f"{path}/{each}") for each, inner in tree.items()}
        return factors(tree, ranks[name], None if moments is None else moments[path]) if name in ranks else tree

    return {**params, "blocks": walk(params["blocks"], "blocks")}


def round_by_moments(config: ModelConfig, params: Any, moments: Moments) -> Any:
    """Returns the tree of weights with the matrices inside the layers rounded so that they give what they gave."""

    def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        moment = moments.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        rounding = stored_as(config, name_of(path))
        return leaf if moment is None or rounding is None else gptq(leaf, rounding, moment)

    return jax.tree_util.tree_map_with_path(one, params)


def needs_moments(before: ModelConfig, model: ModelConfig) -> bool:
    """Returns whether begin asks for the second moments of the inputs of matrices."""
    is_whitened = before.ranks() != model.ranks() and model.compression.approximation == "whitened"
    return is_whitened or (model.compression.rounding == "gptq" and model.compression != before.compression)


@partial(jax.jit, static_argnums=(0, 1))
def _begun(before: ModelConfig, model: ModelConfig, params: Any, moments: Moments | None) -> Any:
    if before.ranks() != model.ranks():
        params = factor(model, params, moments)
    if model.compression.rounding == "gptq":
        params = round_by_moments(model, params, moments or {})
    return prune(model, params) if model.compression.sparsity != before.compression.sparsity else params


def begin(
    before: ModelConfig, model: ModelConfig, params: Any, is_population: bool = False, moments: Moments | None = None
) -> Any:
    """Returns the weights with which a model goes on from those of another of its shape: pruned, of low rank, or
    rounded as a whole, where only it is.

    Args:
      before: whose weights they are.
      model: that goes on with them.
      params: tree of weights.
      is_population: whether each, and each moment, has a leading member axis.
      moments: as calibration.second_moments gives, where needs_moments asks for them.

    Raises:
      ValueError: the two differ in compression, and that changes no weight.
    """
    if model.compression == before.compression or model.compression.is_none:
        return params
    begun = params
    is_sparser = model.compression.sparsity != before.compression.sparsity
    if is_sparser or model.ranks() != before.ranks() or model.compression.rounding == "gptq":
        one = partial(_begun, before, model)
        begun = (jax.vmap(one) if is_population else one)(params, moments)
        if model.ranks() != before.ranks():
            return begun
        begun = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), begun, params)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(compress(model, begun)), strict=True)
    if not any(bool(jnp.any(a != b)) for a, b in pairs):
        raise ValueError(
            f"{model.compression} changes no weight, so that its level would be that of none: they are as coarse and "
            f"as sparse already. Choose fewer bits or more sparsity."
        )
    return begun
