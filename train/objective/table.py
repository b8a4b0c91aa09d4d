"""The objectives, by the name that TrainConfig.objective gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.objective.augment import augment
from kleiber.train.objective.masked import hide
from kleiber.train.objective.next_token import logged_names, next_token

Losses = tuple[jax.Array, jax.Array | None, jax.Array | float, dict[str, jax.Array]]


@dataclass(frozen=True)
class Objective:
    """What training minimises, and what it tells besides."""

    losses: Callable[[TrainConfig, Any, Batch, jax.Array | None], Losses]
    """(config, params, batch, key) -> (losses, weights, added, logged). `losses`, float32 [B, ...] in nats, are of each
    target; `weights`, like them, say how much each counts in the mean, and None that all count alike; the scalar
    `added` is trained on besides and no part of the reported loss; `logged` are further scalars for the metrics. The
    key is None where nothing is drawn."""
    logged: Callable[[TrainConfig], tuple[str, ...]]
    """Returns the names in `logged`."""
    has_weights: bool = False
    """Whether `weights` are of the objective's own making; else they are those of the batch, if it has any."""
    is_code_length: bool = True
    """Whether the losses of a text add up to what it takes to tell it, so that bits per byte have a meaning."""
    drawn: Callable[[TrainConfig, Batch, jax.Array | None], Batch] | None = None
    """(config, batch, key) -> the batch that is trained on, of which something is drawn anew at each step, row by row
    from the row itself, so that it is the same on any mesh and in any number of micro-batches. Without a key what is
    drawn is always the same, to be measured on. None if nothing is drawn."""

    def batch(self, config: TrainConfig, batch: Batch, key: jax.Array | None) -> Batch:
        """Returns the batch to be given to `losses`."""
        return self.drawn(config, batch, key) if self.drawn else batch


OBJECTIVES = {
    "next_token": Objective(next_token, logged_names),
    "masked": Objective(next_token, logged_names, has_weights=True, is_code_length=False, drawn=hide),
    "label": Objective(next_token, logged_names, is_code_length=False, drawn=augment),
    "sequence_to_sequence": Objective(next_token, logged_names, is_code_length=False),
}
"""A row for each name of Objective in train/config.py."""
