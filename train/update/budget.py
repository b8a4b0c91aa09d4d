"""The budget of AdaLoRA: ever fewer of its singular values stay other than zero, those that count least go first.

Source: Zhang et al. 2023, arXiv:2303.10512. The importance of a singular value and its two vectors is
s(lambda) + mean s(P) + mean s(Q) (equation 7), s of an entry its smoothed sensitivity |w dL/dw| times how much that
changes (equations 8 to 11). From one step to another the number that is left falls by a cubic (equation 12); after each
step those beyond it are set to zero, and may come back.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kleiber.model.adapter import AdapterConfig
from kleiber.model.adapters.adapted import LEFT, RIGHT, VALUES
from kleiber.model.adapters.orthogonality import triplets

DECAY = 0.85
"""Of both means, as in the authors' experiments (appendix C)."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sensitivity:
    """What the steps so far have told of the weights of AdaLoRA: trees like the weights, None of the others."""

    count: jax.Array
    """int32, steps."""
    mean: Any
    """Smoothed sensitivity."""
    change: Any
    """Smoothed distance of the sensitivity from its mean."""


def sensitivity() -> optax.GradientTransformation:
    """Returns what keeps a Sensitivity and leaves the gradients as they are."""

    def init(params: Any) -> Sensitivity:
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), _of_adapters(params))
        return Sensitivity(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(grads: Any, state: Sensitivity, params: Any = None) -> tuple[Any, Sensitivity]:
        now = jax.tree.map(lambda p, g: jnp.abs(p * g).astype(jnp.float32), *map(_of_adapters, (params, grads)))
        mean = jax.tree.map(lambda old, new: DECAY * old + (1 - DECAY) * new, state.mean, now)
        change = jax.tree.map(lambda old, new, m: DECAY * old + (1 - DECAY) * jnp.abs(new - m), state.change, now, mean)
        return grads, replace(state, count=state.count + 1, mean=mean, change=change)

    return optax.GradientTransformation(init, update)


def _of_adapters(tree: Any) -> Any:
    def chosen(path: tuple[Any, ...], leaf: Any) -> Any:
        return leaf if path[-1].key in (LEFT, VALUES, RIGHT) else None

    return jax.tree_util.tree_map_with_path(chosen, tree)


def num_left(adapter: AdapterConfig, step: jax.Array, num_values: int) -> jax.Array:
    """Returns how many singular values of a model are left after so many steps, int32."""
    first, last = adapter.budget_steps
    rest = (1 - jnp.clip((step - first) / (last - first), 0, 1)) ** 3
    mean_rank = adapter.final_rank + (adapter.rank - adapter.final_rank) * rest
    return jnp.ceil(mean_rank / adapter.rank * num_values - 1e-3).astype(jnp.int32)


def within_budget(adapter: AdapterConfig, params: Any, state: Sensitivity) -> Any:
    """Returns the weights with the least important singular values at zero, as many as the budget has no room for.

    Args:
      adapter: of kind `adalora`.
      params: tree of the weights that move, None for others.
      state: of the steps so far.
    """
    scores = jax.tree.map(jnp.multiply, state.mean, state.change)
    importance = [each[VALUES] + each[LEFT].mean(axis=-2) + each[RIGHT].mean(axis=-1) for each in triplets(scores)]
    flat = jnp.concatenate([each.reshape(-1) for each in importance])
    order = jnp.argsort(jnp.argsort(-flat, stable=True), stable=True)  # 0 of the most important
    stays = order < num_left(adapter, state.count, flat.size)
    ends = [0]
    for each in importance:
        ends.append(ends[-1] + each.size)
    parts = iter([stays[start:end] for start, end in zip(ends[:-1], ends[1:], strict=True)])

    def walk(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        if VALUES in tree:
            values = tree[VALUES]
            return tree | {VALUES: jnp.where(next(parts).reshape(values.shape), values, 0)}
        return {name: walk(each) for name, each in tree.items()}

    return walk(params)
