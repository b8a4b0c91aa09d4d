"""What decoding makes of a config, of weights and of what is asked of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from kleiber.model.compress.tree import compress
from kleiber.model.config import CompressionConfig, ModelConfig


def inference_config(config: ModelConfig) -> ModelConfig:
    """Returns the config under which weights that `compress` has rounded already are read token by token: nothing is
    dropped, and experts have room for all, so that padding takes no token's place and groups make no difference."""
    if config.experts:
        room = config.experts.num_experts / config.experts.num_active
        config = replace(config, experts=replace(config.experts, capacity_factor=room, group_size=None))
    shape = CompressionConfig(rank_share=config.compression.rank_share, factored=config.compression.factored)
    return replace(config, dropout=0.0, compression=shape)


def as_read(config: ModelConfig, params: Any) -> Any:
    """Returns the weights as the layers read them, so that they are not rounded again for every token."""
    return jax.jit(compress, static_argnums=0)(config, params) if config.compression.rounds else params


def bucket(length: int, most: int) -> int:
    """Returns how many places are kept for a length, at most so many: few sizes, so that few programs are compiled."""
    return min(most, max(16, 1 << (length - 1).bit_length()))


def check_request(config: ModelConfig, prompt: Sequence[int], num_tokens: int, stops: Sequence[int]) -> None:
    """Raises ValueError of an empty prompt, no token to draw, one outside the vocabulary, or more of them than the
    window holds."""
    places = config.seq_len
    if not prompt or num_tokens < 1:
        raise ValueError(f"{num_tokens} tokens to draw behind a prompt of {len(prompt)}, expected 1 or more of each.")
    if len(prompt) + num_tokens - 1 > places:
        raise ValueError(
            f"a prompt of {len(prompt)} tokens and {num_tokens} more, but the window holds {places}, and the last one "
            f"drawn needs no place: ask for at most {max(0, places - len(prompt) + 1)}, or shorten the prompt."
        )
    outside = [token for token in (*prompt, *stops) if not 0 <= token < config.vocab_size]
    if outside:
        raise ValueError(f"token {outside[0]} is outside the vocabulary of {config.vocab_size}.")


def known(prompt: Sequence[int], size: int) -> np.ndarray:
    """Returns int32 [size], a prompt but for its last token, ending at the last place."""
    tokens_P = np.zeros(size, np.int32)
    tokens_P[size - len(prompt) + 1 :] = prompt[:-1]
    return tokens_P


def last_two(prompt: Sequence[int]) -> np.ndarray:
    """Returns int32 [2], the last token of a prompt and the one before, if there is one."""
    return np.array([0, *prompt[-2:]][-2:], np.int32)


def is_stop(config: ModelConfig, stops: Sequence[int]) -> np.ndarray:
    """Returns bool [V], whether each token is one of the stops."""
    return np.isin(np.arange(config.vocab_size), np.asarray(stops, np.int64))


def stream(seed: int, row: int = 0) -> jax.Array:
    """Returns the typed key of what a row of a seed draws: the number of a draw is folded into it."""
    return jax.random.fold_in(jax.random.key(seed), row)
