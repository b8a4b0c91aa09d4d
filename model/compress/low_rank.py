"""Matrices of low rank: two narrow factors in place of one, from the start or in place of a trained one.

The plain truncation W_r of the singular value decomposition is the matrix of rank r nearest to W (Eckart and Young
1936). Of inputs x with second moment M = E[x x^T] = S S (S symmetric), E |x W - x W_r|^2 = |S (W - W_r)|^2, so that
S^-1 truncated(S W) is nearest in what it gives (SVD-LLM, Wang et al. 2024, arXiv:2403.07378).

D inputs, F outputs, R rank.
"""

import jax
import jax.numpy as jnp
from flax import nnx

LEAST = 1e-6
"""Of the largest eigenvalue of a second moment: directions of less count as if they had that much."""


class Factored(nnx.Module):
    """A matrix as left [D, R] @ right [R, F]."""

    def __init__(self, left: nnx.Param, right: nnx.Param):
        self.left, self.right = left, right


def factors(weight: jax.Array, rank: int, moment: jax.Array | None = None) -> dict[str, jax.Array]:
    """Returns the factors of a trained matrix, in its dtype, balanced: each has the singular values' square roots.

    Args:
      weight: [..., D, F].
      rank: R.
      moment: float32 [..., D, D] of its inputs, so that what it gives is kept; None keeps its entries.
    """
    matrix = weight.astype(jnp.float32)
    if moment is not None:
        values, vectors = jnp.linalg.eigh(moment)
        roots = jnp.sqrt(jnp.maximum(values, LEAST * values[..., -1:]))
        roots = jnp.where(roots > 0, roots, 1.0)  # inputs that are zero throughout leave all entries alike
        turned = jnp.swapaxes(vectors, -1, -2) @ matrix * roots[..., None]
        left, sizes, right = _truncated(turned, rank)
        matrix = (vectors / roots[..., None, :]) @ (left * sizes[..., None, :]) @ right
    left, sizes, right = _truncated(matrix, rank)
    root = jnp.sqrt(sizes)
    return {
        "left": (left * root[..., None, :]).astype(weight.dtype),
        "right": (root[..., None] * right).astype(weight.dtype),
    }


def _truncated(matrix: jax.Array, rank: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    left, sizes, right = jnp.linalg.svd(matrix, full_matrices=False)
    return left[..., :rank], sizes[..., :rank], right[..., :rank, :]
