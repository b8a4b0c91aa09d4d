"""What decoding makes of a config, of weights and of what is asked of them.

P places of a prompt, V vocabulary.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from kleiber.model.compress.tree import compress
from kleiber.model.config import CompressionConfig, ModelConfig
from kleiber.model.decode.sample import Sampling


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


@dataclass(frozen=True)
class Request:
    """What is asked of a model: tokens behind a prompt."""

    prompt: tuple[int, ...]
    """Token ids, one or more."""
    num_tokens: int
    """Most to draw."""
    sampling: Sampling = Sampling()
    """How."""
    seed: int = 0
    """Of the draws."""
    stops: tuple[int, ...] = ()
    """Tokens at which the answer ends; they are not part of it."""
    row: int = 0
    """Which of the rows of its seed it is."""
    first: int = 0
    """Number of the first draw in the row's stream."""

    def check(self, config: ModelConfig) -> None:
        """Raises ValueError of an empty prompt, no token to draw, one outside the vocabulary, or more of them than the
        window holds."""
        length, places = len(self.prompt), config.seq_len - config.num_virtual_tokens
        if not length or self.num_tokens < 1:
            raise ValueError(
                f"{self.num_tokens} tokens to draw behind a prompt of {length}, expected 1 or more of each."
            )
        if length + self.num_tokens - 1 > places:
            raise ValueError(
                f"a prompt of {length} tokens and {self.num_tokens} more, but the window holds {places}, and the last "
                f"one drawn needs no place: ask for at most {max(0, places - length + 1)}, or shorten the prompt."
            )
        outside = [token for token in (*self.prompt, *self.stops) if not 0 <= token < config.vocab_size]
        if outside:
            raise ValueError(f"token {outside[0]} is outside the vocabulary of {config.vocab_size}.")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Row:
    """A request as arrays; or several, with a leading axis."""

    tokens_P: Any
    """int32, the prompt but for its last token, which ends at the last place; before it stands anything."""
    length: Any
    """int32, of these tokens."""
    last_two_2: Any
    """int32, the last token of the prompt and the one before, if there is one."""
    num_tokens: Any
    """int32, most to draw."""
    first: Any
    """int32, number of the first draw in the stream."""
    seed: Any
    """uint32, its last 32 bits."""
    row: Any
    """int32, which of the rows of its seed it is."""
    numbers_3: Any
    """float32, of a Sampling."""
    is_stop_V: Any
    """bool, tokens at which it ends."""


def virtual(config: ModelConfig) -> tuple[int, ...]:
    """Returns the ids of the tokens that stand in front of every prompt, and take up places of the window."""
    return tuple(range(config.vocab_size, config.vocab_size + config.num_virtual_tokens))


def prompt_size(config: ModelConfig, num_tokens: int) -> int:
    """Returns the places kept for a prompt of so many tokens, all but the last of which are read at once."""
    return bucket(config.num_virtual_tokens + num_tokens - 1, config.seq_len)


def stream(seed: jax.Array, row: jax.Array) -> jax.Array:
    """Returns the typed key of what a row of a seed draws: the number of a draw is folded into it."""
    return jax.random.fold_in(jax.random.key(seed), row)


def row_of(config: ModelConfig, request: Request, size: int) -> Row:
    """Returns a request as NumPy arrays, its prompt in so many places, prompt_size of its tokens or more."""
    prompt = virtual(config) + request.prompt
    length = len(prompt) - 1
    tokens_P = np.zeros(size, np.int32)
    tokens_P[size - length :] = prompt[:-1]
    return Row(
        tokens_P=tokens_P,
        length=np.int32(length),
        last_two_2=np.array([0, *prompt[-2:]][-2:], np.int32),
        num_tokens=np.int32(request.num_tokens),
        first=np.int32(request.first),
        seed=np.uint32(request.seed & 0xFFFFFFFF),
        row=np.int32(request.row),
        numbers_3=request.sampling.numbers(config.vocab_size),
        is_stop_V=np.isin(np.arange(config.vocab_size), np.asarray(request.stops, np.int64)),
    )
