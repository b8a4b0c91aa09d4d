"""Which token follows: the most likely one, or one drawn by its probability.

B rows, V vocabulary.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

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

    def numbers(self, vocab_size: int) -> np.ndarray:
        """Returns float32 [3] for `draw`."""
        return np.array([self.temperature, min(self.top_k or vocab_size, vocab_size), self.top_p], np.float32)


def draw(numbers_B3: jax.Array, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    """Returns int32 [B], a token of each row, drawn in its own way and by its own key.

    What no row asks for is not computed, so that one program serves every way of drawing.

    Args:
      numbers_B3: of a Sampling each.
      logits_BV: float32.
      keys_B: typed keys of jax.random.
    """
    temperature_B, top_k_B, top_p_B = jnp.moveaxis(numbers_B3, 1, 0)
    is_greedy_B = temperature_B == 0
    is_filtered_B = ~is_greedy_B & ((top_k_B < logits_BV.shape[1]) | (top_p_B < 1))

    def drawn() -> jax.Array:
        scaled_BV = logits_BV / jnp.where(is_greedy_B, 1, temperature_B)[:, None]
        filtered_BV = jax.lax.cond(jnp.any(is_filtered_B), _filtered, lambda x, *_: x, scaled_BV, top_k_B, top_p_B)
        chosen_BV = jnp.where(is_filtered_B[:, None], filtered_BV, scaled_BV)
        return jax.vmap(jax.random.categorical)(keys_B, chosen_BV).astype(jnp.int32)

    likeliest_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    drawn_B = jax.lax.cond(jnp.all(is_greedy_B), lambda: likeliest_B, drawn)
    return jnp.where(is_greedy_B, likeliest_B, drawn_B)


def _filtered(logits_BV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """Returns the logits with -inf for tokens that top_k or top_p leave out."""
    sorted_BV, order_BV = jax.lax.top_k(logits_BV, logits_BV.shape[1])  # of equal ones the first
    sorted_BV = jnp.where(jnp.arange(logits_BV.shape[1]) < top_k_B[:, None], sorted_BV, -jnp.inf)
    probabilities_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probabilities_BV, axis=-1) - probabilities_BV
    sorted_BV = jnp.where(before_BV < top_p_B[:, None], sorted_BV, -jnp.inf)
    return sorted_BV.at[jnp.arange(len(sorted_BV))[:, None], order_BV].set(sorted_BV)
