"""The objectives, by the name that TrainConfig.objective gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
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


OBJECTIVES = {"next_token": Objective(next_token, logged_names)}
"""A row for each name of Objective in train/config.py."""
