"""Tokens drawn from a model one after another: the whole window is read again for each, by one compiled program.

T positions of the window, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.model.functional import apply_hidden, head


@partial(jax.jit, static_argnums=0)
def _logits_after(config: ModelConfig, params: Any, tokens_T: jax.Array, last: jax.Array) -> jax.Array:
    """Returns float32 logits_V of the token after position `last`; what stands behind it is padding."""
    x_BTD, _ = apply_hidden(config, params, tokens_T[None])
    return head(config, params, jax.lax.dynamic_slice_in_dim(x_BTD, last, 1, axis=1))[0, 0]


def generate(
    config: ModelConfig,
    params: Any,
    prompt: Sequence[int],
    num_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yields token ids that follow a prompt, each given the last seq_len tokens.

    Args:
      config: the shape.
      params: tree of weights.
      prompt: token ids, one or more.
      num_tokens: how many to draw.
      temperature: divides the logits; 0 takes the most likely token.
      top_k: draw among so many of the most likely only; None draws among all.
      seed: of the draws.

    Raises:
      ValueError: no prompt, a temperature below 0, or a top_k or num_tokens below 1.
    """
    if not len(prompt) or not temperature >= 0 or num_tokens < 1 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"{len(prompt)} tokens of prompt, temperature {temperature:g}, top_k {top_k}, num_tokens {num_tokens}; "
            f"expected a prompt, a temperature of 0 or more, and numbers of 1 or more."
        )
    if config.experts:  # with room for all, so that padding takes no token's place
        experts = replace(config.experts, capacity_factor=config.experts.num_experts / config.experts.num_active)
        config = replace(config, experts=experts)
    config, tokens, draw = replace(config, dropout=0.0), list(prompt), np.random.default_rng(seed)
    for _ in range(num_tokens):
        seen = tokens[-config.seq_len :]
        window = np.array(seen + [0] * (config.seq_len - len(seen)), np.int32)
        logits = np.asarray(_logits_after(config, params, window, jnp.int32(len(seen) - 1)), np.float64)
        tokens.append(choose(logits, temperature, top_k, draw))
        yield tokens[-1]


def choose(logits: np.ndarray, temperature: float, top_k: int | None, draw: np.random.Generator) -> int:
    """Returns a token id drawn by its logits, float64 [V]: softmax(logits / temperature) over the top_k largest."""
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[:top_k]
    scaled = (logits[order] - logits[order[0]]) / temperature
    return int(draw.choice(order, p=np.exp(scaled) / np.exp(scaled).sum()))
