"""Tokens drawn from a model one after another: the prompt is read once into a memory of keys and values, and one
compiled loop goes on from there.

Rows of a batch end at one place of the memory and begin where their length says, so that every step writes all of them
at the same place. One program, of the whole window, serves every length of prompt and of answer.

B rows, S places of the window, D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.compress.tree import compress
from kleiber.model.config import CompressionConfig, ModelConfig
from kleiber.model.decode.sample import Sampling, draw
from kleiber.model.families.decoder import empty_memory
from kleiber.model.functional import as_module
from kleiber.model.layers.attention import Recall

PLAIN = Sampling()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Prompts of a batch."""

    tokens_BS: jax.Array
    """int32; each ends at place max(lengths_B), with anything before and behind."""
    lengths_B: jax.Array
    """int32, 1 to S."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drawn:
    """What is drawn, and when it ends."""

    numbers: jax.Array
    """Of Sampling."""
    key: jax.Array
    """Typed; each row and each draw has a stream of its own."""
    first: jax.Array
    """int32, number of the first draw."""
    num_tokens: jax.Array
    """int32, at most S - max(lengths_B) + 1: the last one needs no place."""
    is_stop_V: jax.Array
    """bool, tokens at which a row stops."""


def inference_config(config: ModelConfig) -> ModelConfig:
    """Returns the config under which weights that `compress` has rounded already are read token by token: nothing is
    dropped, and experts have room for all, so that padding takes no token's place."""
    if config.experts:
        room = config.experts.num_experts / config.experts.num_active
        config = replace(config, experts=replace(config.experts, capacity_factor=room))
    return replace(config, dropout=0.0, compression=CompressionConfig())


def prefill(config: ModelConfig, params: Any, rows: Rows) -> tuple[jax.Array, Any]:
    """Returns (float32 logits_BV of the token that follows each row, memory of all of them); config is that of
    inference_config."""
    num_rows, places = rows.tokens_BS.shape
    end = jnp.max(rows.lengths_B)
    at_S, starts_B = jnp.arange(places), end - rows.lengths_B
    is_seen_BTS = (at_S[:, None] >= at_S) & (at_S >= starts_B[:, None])[:, None]
    model, memory = as_module(config, params), empty_memory(config, num_rows, places)
    recall = Recall(is_seen_BTS, jnp.int32(0))
    x_BSD, memory = model.remember(rows.tokens_BS, recall, at_S - starts_B[:, None], memory)
    return model.logits(jax.lax.dynamic_slice_in_dim(x_BSD, end - 1, 1, axis=1))[:, 0], memory


def step(
    config: ModelConfig, params: Any, tokens_B2: jax.Array, place: jax.Array, starts_B: jax.Array, memory: Any
) -> tuple[jax.Array, Any]:
    """Returns (float32 logits_BV of the token that follows, memory with one more token of each row).

    Args:
      config: of inference_config.
      params: tree of weights.
      tokens_B2: int32, the token before the new one, which the memory holds, and the new one.
      place: int32, where the new one goes.
      starts_B: int32, the place of each row's first token.
      memory: of the places before.
    """
    model, places = as_module(config, params), jax.tree.leaves(memory)[0].shape[-3]
    at_S = jnp.arange(places)
    is_seen_BS = (at_S <= place) & (at_S >= starts_B[:, None])
    positions_B2 = (place - starts_B)[:, None] + jnp.arange(-1, 1)
    x_B1D, memory = model.remember(tokens_B2, Recall(is_seen_BS[:, None], place), positions_B2, memory, num_known=1)
    return model.logits(x_B1D)[:, 0], memory


@partial(jax.jit, static_argnums=(0, 1))
def answer(config: ModelConfig, kind: str, params: Any, rows: Rows, drawn: Drawn) -> tuple[jax.Array, jax.Array]:
    """Returns (int32 [B, S], the tokens that follow each row in its first columns; int32 [B], how many of them came
    before it stopped): reading and drawing as one program, in which the memory is written where it lies.

    Args:
      config: of inference_config.
      kind: of Sampling.
      params: tree of weights.
      rows: the prompts.
      drawn: what is drawn.
    """
    logits_BV, memory = prefill(config, params, rows)
    num_rows, places = rows.tokens_BS.shape
    end = jnp.max(rows.lengths_B)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(drawn.key, jnp.arange(num_rows))

    def is_going(carry):
        index, *_, counts_B = carry
        return (index < drawn.num_tokens) & jnp.any(counts_B == index)

    def advance(carry):
        index, found_BS, last_B, logits_BV, memory, counts_B = carry
        own_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, drawn.first + index)
        new_B = draw(kind, drawn.numbers, logits_BV, own_B)
        found_BS = jax.lax.dynamic_update_slice_in_dim(found_BS, new_B[:, None], index, axis=1)
        counts_B = counts_B + ((counts_B == index) & ~drawn.is_stop_V[new_B])
        last_two_B2 = jnp.stack([last_B, new_B], axis=1)
        logits_BV, memory = step(config, params, last_two_B2, end + index, end - rows.lengths_B, memory)
        return index + 1, found_BS, new_B, logits_BV, memory, counts_B

    last_B = jax.lax.dynamic_index_in_dim(rows.tokens_BS, end - 1, axis=1, keepdims=False)
    found_BS, counts_B = jnp.zeros((num_rows, places), jnp.int32), jnp.zeros(num_rows, jnp.int32)
    carry = jax.lax.while_loop(is_going, advance, (jnp.int32(0), found_BS, last_B, logits_BV, memory, counts_B))
    return carry[1], carry[-1]


def generate_rows(
    config: ModelConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    sampling: Sampling = PLAIN,
    seed: int = 0,
    stops: Sequence[int] = (),
    first: int = 0,
) -> list[np.ndarray]:
    """Returns the token ids, int32, that follow each of several prompts, drawn together.

    What a row draws depends on the seed, its number and the tokens before, not on the other rows.

    Args:
      config: the shape; weights are rounded as its compression says.
      params: tree of weights.
      prompts: token ids, one or more each.
      num_tokens: most to draw for each.
      sampling: how.
      seed: of the draws.
      stops: tokens at which a row ends; they are not part of it.
      first: number of the first draw in the stream of the seed.

    Raises:
      ValueError: an empty prompt, a token outside the vocabulary, or more tokens than the window holds.
    """
    lengths, places = [len(prompt) for prompt in prompts], config.seq_len
    if not lengths or min(lengths) < 1 or num_tokens < 1:
        raise ValueError(f"{num_tokens} tokens to draw behind prompts of {lengths}, expected 1 or more of each.")
    if max(lengths) + num_tokens - 1 > places:
        raise ValueError(
            f"a prompt of {max(lengths)} tokens and {num_tokens} more, but the window holds {places}, and the last one "
            f"drawn needs no place: ask for at most {places - max(lengths) + 1}, or shorten the prompt."
        )
    outside = [token for row in (*prompts, stops) for token in row if not 0 <= token < config.vocab_size]
    if outside:
        raise ValueError(f"token {outside[0]} is outside the vocabulary of {config.vocab_size}.")
    tokens_BS = np.zeros((len(prompts), places), np.int32)
    for row, prompt in zip(tokens_BS, prompts, strict=True):
        row[max(lengths) - len(prompt) : max(lengths)] = prompt
    is_stop_V = np.isin(np.arange(config.vocab_size), np.asarray(stops, np.int64))
    config, params = inference_config(config), _as_read(config, params)
    rows = Rows(jnp.asarray(tokens_BS), jnp.asarray(lengths, jnp.int32))
    numbers, key = sampling.numbers(config.vocab_size), jax.random.key(seed)
    drawn = Drawn(numbers, key, jnp.int32(first), jnp.int32(num_tokens), jnp.asarray(is_stop_V))
    found_BS, counts_B = answer(config, sampling.kind, params, rows, drawn)
    return [row[:count] for row, count in zip(np.asarray(found_BS), np.asarray(counts_B), strict=True)]


def _as_read(config: ModelConfig, params: Any) -> Any:
    """Returns the weights as the layers read them, so that they are not rounded again for every token."""
    return jax.jit(compress, static_argnums=0)(config, params) if config.compression.rounds else params


def generate(
    config: ModelConfig,
    params: Any,
    prompt: Sequence[int],
    num_tokens: int,
    sampling: Sampling = PLAIN,
    seed: int = 0,
    stops: Sequence[int] = (),
) -> Iterator[int]:
    """Yields token ids that follow a prompt, each given the last seq_len tokens.

    Until the window is full that is one loop; from there on every token sees another window, which is read anew.

    Args: as generate_rows, of one prompt and any number of tokens.

    Raises:
      ValueError: as generate_rows.
    """
    tokens, drawn = list(prompt), 0
    params = _as_read(config, params)
    config = replace(config, compression=CompressionConfig())
    while drawn < num_tokens or drawn == 0:
        window = tokens[-config.seq_len :]
        count = min(num_tokens - drawn, config.seq_len - len(window) + 1)
        (found,) = generate_rows(config, params, [window], count, sampling, seed, stops, drawn)
        tokens += found.tolist()
        yield from found.tolist()
        drawn += len(found)
        if len(found) < count:
            return
