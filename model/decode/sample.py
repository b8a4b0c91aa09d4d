"""Which token follows: the most likely one, or one drawn by its probability.

B rows, V vocabulary.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from kleiber.fields import check_fields


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int | None = None
    """Draw among so many of the most likely only; None draws among all."""
    top_p: float = 1.0
    """Draw among the fewest of the most likely, after top_k, that together have at least this probability."""

    def __post_init__(self) -> None:
        check_fields(self, temperature="[0, inf)", top_k="[1, inf); None draws among all", top_p="(0, 1]")

    @property
    def kind(self) -> str:
        """What is compiled: `greedy`, `plain` or `filtered`; its numbers are arguments."""
        if self.temperature == 0:
            return "greedy"
        return "plain" if self.top_k is None and self.top_p == 1 else "filtered"

    def numbers(self, vocab_size: int) -> jax.Array:
        """Returns float32 [3] for `draw`."""
        return jnp.array([self.temperature, min(self.top_k or vocab_size, vocab_size), self.top_p], jnp.float32)


def draw(kind: str, numbers: jax.Array, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    """Returns int32 [B], a token of each row, drawn by its own key.

    Args:
      kind: of Sampling.
      numbers: of Sampling.
      logits_BV: float32.
      keys_B: typed keys of jax.random.
    """
    if kind == "greedy":
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = logits_BV / numbers[0]
    if kind == "filtered":
        logits_BV = _filtered(logits_BV, numbers[1].astype(jnp.int32), numbers[2])
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def _filtered(logits_BV: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Returns the logits with -inf for tokens that top_k or top_p leave out."""
    order_BV = jnp.argsort(-logits_BV, axis=-1)  # stable: of equal ones the first
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    sorted_BV = jnp.where(jnp.arange(logits_BV.shape[-1]) < top_k, sorted_BV, -jnp.inf)
    probabilities_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probabilities_BV, axis=-1) - probabilities_BV
    sorted_BV = jnp.where(before_BV < top_p, sorted_BV, -jnp.inf)
    return jnp.take_along_axis(sorted_BV, jnp.argsort(order_BV, axis=-1), axis=-1)
