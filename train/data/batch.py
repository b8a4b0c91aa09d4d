"""A batch: what an objective is given of the data."""

from dataclasses import dataclass
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Rows to train or be measured on. Every leaf has the batch axis B in front, and before it whatever axes join
    batches: members, steps."""

    inputs: Any
    """What the model reads: int [B, T] token ids, or [B, T + 1] without targets; of pairs int [B, S + T], source and
    target."""
    targets: Any = None
    """What it should predict, int [B, T]; None for the token after each position, where rows hold one token more."""
    weights: Any = None
    """float32 [B, T], how much each target counts in the mean; None counts all alike."""
    segments: Any = None
    """int, like inputs: the document of each, where attention stops at its end; None lets attention cross."""
    teacher_logits: Any = None
    """float32 [B, T, V], what a teacher says of each target; None without one."""

    def with_targets(self) -> "Batch":
        """Returns the batch with its targets: itself, or with inputs that are all tokens of a row but the last, and
        targets that are all but the first."""
        if self.targets is not None:
            return self
        segments = None if self.segments is None else self.segments[..., :-1]
        return Batch(self.inputs[..., :-1], self.inputs[..., 1:], self.weights, segments)
