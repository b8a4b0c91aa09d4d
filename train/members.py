"""The members of a trunk: runs of one shape that train as one compiled program, each leaf with a leading member axis.

A trunk of one member has no such axis.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.train.config import TrainConfig
from kleiber.train.state import Hyperparameters


class Members:
    """The configs of the members, and what is given to the compiled program for all of them."""

    def __init__(self, configs: Sequence[TrainConfig]):
        """Takes configs alike in all but seed, optimizer constants and factors.

        Raises:
          ValueError: if they differ in more.
        """
        self.configs, self.first = list(configs), configs[0]
        for config in configs:
            alike = replace(config, seed=self.first.seed, optimizer=self.first.optimizer, factors=self.first.factors)
            if alike != self.first:
                raise ValueError("members of one trunk may differ only in seed, optimizer constants and factors.")
        self.is_population = len(self.configs) > 1

    def __len__(self) -> int:
        return len(self.configs)

    def hyperparameters(self) -> Hyperparameters:
        """Returns those of all members."""
        constants = [config.optimizer for config in self.configs]
        return self.stack(
            [Hyperparameters(jnp.float32(c.learning_rate), jnp.float32(c.weight_decay)) for c in constants]
        )

    def seeds(self) -> np.ndarray:
        """Returns uint32 [members], or a scalar."""
        seeds = np.array([config.seed for config in self.configs], np.uint32)
        return seeds if self.is_population else seeds[0]

    def stack(self, trees: list[Any]) -> Any:
        """Returns one tree of the members' trees."""
        if not self.is_population:
            return trees[0]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)

    def member(self, tree: Any, index: int) -> Any:
        """Returns the tree of one member."""
        return jax.tree.map(lambda leaf: leaf[index], tree) if self.is_population else tree
