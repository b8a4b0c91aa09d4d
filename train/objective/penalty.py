"""What training adds of the weights alone, whatever the batch: a row a penalty.

Its gradient is added to that of the batch once a step, and it is no part of the reported loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.adapters.orthogonality import orthogonality
from kleiber.train.config import TrainConfig
from kleiber.train.trained import separate


@dataclass(frozen=True)
class Penalty:
    """One term of the training loss."""

    weight: Callable[[TrainConfig], float]
    """Returns its factor, 0 where a trunk has none."""
    value: Callable[[Any, Any], jax.Array]
    """(tree of the weights that move, anchor: trees like it, or None) -> float32 scalar; None stands for the others."""


def _orthogonality_weight(config: TrainConfig) -> float:
    adapter = config.model.adapter
    return adapter.orthogonality if adapter and adapter.kind == "adalora" else 0.0


def _held(params: Any, anchor: Any) -> jax.Array:
    """Returns 1/2 sum F (w - w_start)^2 (Kirkpatrick et al. 2017, arXiv:1612.00796, equation 3)."""
    parts = jax.tree.map(lambda w, start, fisher: jnp.sum(fisher * jnp.square(w - start)), params, *anchor)
    return 0.5 * sum(jax.tree.leaves(parts), jnp.zeros(()))


PENALTIES = {
    "orthogonality": Penalty(_orthogonality_weight, lambda params, _: orthogonality(params)),
    "ewc": Penalty(lambda config: config.ewc.weight if config.ewc else 0.0, _held),
}
"""By the name of their column in the step log."""


def logged_names(config: TrainConfig) -> tuple[str, ...]:
    """Returns the columns that a trunk logs for its penalties."""
    return tuple(name for name, each in PENALTIES.items() if each.weight(config))


def with_penalties(config: TrainConfig, params: Any, anchor: Any, logged: dict[str, jax.Array], grads: Any):
    """Returns (what is logged, gradients) with what the penalties of a trunk add; as they are where it has none.

    Args:
      config: the trunk.
      params: parameters.
      anchor: (weights of its start, their Fisher diagonal) where it has ewc.
      logged: of the batch.
      grads: of the batch; None for a weight that stays.
    """
    names = logged_names(config)
    if not names:
        return logged, grads

    held = None if anchor is None else tuple(separate(config, each)[0] for each in anchor)

    def total(moving: Any):
        values = {name: PENALTIES[name].value(moving, held) for name in names}
        return sum((PENALTIES[name].weight(config) * each for name, each in values.items()), jnp.zeros(())), values

    added, values = jax.grad(total, has_aux=True)(separate(config, params)[0])
    return logged | values, jax.tree.map(lambda g, more: g + more.astype(g.dtype), grads, added)
