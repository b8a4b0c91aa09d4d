"""Weights that are zero: the smallest of a matrix, of all matrices, or of every few inputs of an output."""

import jax
import jax.numpy as jnp

from kleiber.model.config import CompressionConfig


def kept(weight: jax.Array, compression: CompressionConfig, threshold: jax.Array | None = None) -> jax.Array:
    """Returns which entries of a weight [..., D, F] stay, bool: the largest of each matrix, or of each m inputs of an
    output; with a threshold those of at least its size."""
    size = jnp.abs(weight.astype(jnp.float32))
    if threshold is not None:
        return size >= threshold
    if ":" in compression.pattern:
        num_kept, of = map(int, compression.pattern.split(":"))
        groups = size.reshape(*size.shape[:-2], -1, of, size.shape[-1])
        rank = jnp.argsort(jnp.argsort(-groups, axis=-2), axis=-2)
        return (rank < num_kept).reshape(size.shape)
    rows = size.reshape(*size.shape[:-2], -1)
    least = jnp.sort(rows, axis=-1)[..., round(compression.sparsity * rows.shape[-1])]
    return size >= least[..., None, None]


def global_threshold(weights: list[jax.Array], compression: CompressionConfig) -> jax.Array:
    """Returns the size of the smallest entry that stays when all weights compete."""
    sizes = jnp.sort(jnp.concatenate([jnp.abs(weight.astype(jnp.float32)).reshape(-1) for weight in weights]))
    return sizes[round(compression.sparsity * len(sizes))]
