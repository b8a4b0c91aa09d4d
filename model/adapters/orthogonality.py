"""How far the singular vectors of AdaLoRA are from orthonormal.

Source: Zhang et al. 2023, arXiv:2303.10512, equation 4: |P^T P - I|^2 + |Q Q^T - I|^2, Frobenius norms.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.adapters.adapted import LEFT, RIGHT, VALUES


def triplets(params: Any) -> Iterator[dict[str, jax.Array]]:
    """Yields the weights beside each matrix that AdaLoRA has something beside, in the order of the tree of weights."""
    if isinstance(params, dict):
        if VALUES in params:
            yield params
        else:
            for each in params.values():
                yield from triplets(each)


def orthogonality(params: Any) -> jax.Array:
    """Returns the sum over all matrices of a tree of weights, float32; 0 where every vector is of length one and
    orthogonal to the others."""
    total = jnp.zeros(())
    for weights in triplets(params):
        left, right = (weights[name].astype(jnp.float32) for name in (LEFT, RIGHT))
        identity = jnp.eye(left.shape[-1])
        total += jnp.sum(jnp.square(jnp.matmul(jnp.swapaxes(left, -1, -2), left) - identity))
        total += jnp.sum(jnp.square(jnp.matmul(right, jnp.swapaxes(right, -1, -2)) - identity))
    return total
