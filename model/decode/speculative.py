"""Speculative decoding (Leviathan et al. 2022, arXiv:2211.17192): a small model drafts some tokens, and the large one
reads them in one pass and keeps those that it would have drawn itself.

Both draw the token of a position by the same key, and a draft is kept where the two draw the same (Daliri et al. 2024,
arXiv:2408.07978): whatever the draft is, every token is the large model's own draw, and a seed writes what it writes
without a draft. Keeping by the ratio of the probabilities would keep a few more, and write another text.

P places of a prompt, S places of the memory, K drafted tokens, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.model.decode.inference import Request, Row, as_read, bucket, inference_config, prompt_size, row_of, stream
from kleiber.model.decode.sample import draw
from kleiber.model.decode.slots import prefill, step, widen

NUM_DRAFTED = 4
"""Tokens drafted for a pass of the large model."""


@dataclass
class Draft:
    """A smaller model that drafts, and how it has done so far."""

    config: ModelConfig
    params: Any
    num_passes: int = 0
    """Of the large model: without a draft, one a token."""
    num_kept: int = 0
    """Drafted tokens that were kept, of NUM_DRAFTED a pass."""


@partial(jax.jit, static_argnums=(0, 1, 2))
def _answer(
    config: ModelConfig, draft: ModelConfig, num_places: int, params: Any, draft_params: Any, row: Row
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns (tokens [S + K + 1] of which the first are drawn, how many, passes, drafted tokens kept)."""
    size, key = len(row.tokens_P), stream(row.seed, row.row)
    start_1 = (size - row.length)[None]
    room = size + num_places + NUM_DRAFTED  # no pass goes round the memory
    memories = [
        widen(prefill(each, weights, row.tokens_P[None], start_1), room)
        for each, weights in ((config, params), (draft, draft_params))
    ]

    def drawn(logits_TV: jax.Array, first: jax.Array) -> jax.Array:
        numbers_T = first + jnp.arange(len(logits_TV))
        keys_T = jax.vmap(jax.random.fold_in, (None, 0))(key, row.first + numbers_T)
        return draw(jnp.tile(row.numbers_3, (len(logits_TV), 1)), logits_TV, keys_T)

    def guess(carry: tuple[Any, ...], ahead: jax.Array) -> tuple[tuple[Any, ...], jax.Array]:
        """Drafts a token; the one before the newest is read again, as after a pass the draft may not have seen it."""
        count, last_three_3, memory = carry
        place, position_1 = size + count + ahead - 1, (row.length + count + ahead - 1)[None]
        logits_12V, memory = step(draft, draft_params, last_three_3[None], place, position_1, memory)
        (new,) = drawn(logits_12V[0, 1:], count + ahead)
        return (count, jnp.stack([*last_three_3[1:], new]), memory), new

    def is_going(carry):
        count, is_over, *_ = carry
        return (count < row.num_tokens) & ~is_over

    def move(carry):
        count, is_over, found_S, last_three_3, memory, draft_memory, passes, kept = carry
        begun: tuple[Any, ...] = count, last_three_3, draft_memory
        (*_, draft_memory), guessed_K = jax.lax.scan(guess, begun, jnp.arange(NUM_DRAFTED))
        read_1T = jnp.concatenate([last_three_3[1:], guessed_K])[None]
        logits_1TV, memory = step(config, params, read_1T, size + count, row.length[None] + count, memory)
        own_T = drawn(logits_1TV[0], count)  # K + 1
        agreed = jnp.sum(jnp.cumprod(own_T[:-1] == guessed_K))
        at_T = jnp.arange(NUM_DRAFTED + 1)
        is_stop_T = row.is_stop_V[own_T] & (at_T <= agreed)
        num_new = jnp.where(jnp.any(is_stop_T), jnp.argmax(is_stop_T), agreed + 1).astype(jnp.int32)
        found_S = jax.lax.dynamic_update_slice(found_S, own_T, (count,))
        whole = jnp.concatenate([last_three_3, own_T])
        last_three_3 = jax.lax.dynamic_slice(whole, (num_new,), (3,))
        is_over = jnp.any(is_stop_T)
        return count + num_new, is_over, found_S, last_three_3, memory, draft_memory, passes + 1, kept + agreed

    found_S = jnp.full(num_places + NUM_DRAFTED + 1, -1, jnp.int32)
    before = row.tokens_P[-2] if size > 1 else jnp.int32(0)
    last_three_3 = jnp.concatenate([before[None], row.last_two_2])
    carry = (jnp.int32(0), jnp.bool_(False), found_S, last_three_3, *memories, jnp.int32(0), jnp.int32(0))
    count, _, found_S, *_, passes, kept = jax.lax.while_loop(is_going, move, carry)
    return found_S, jnp.minimum(count, row.num_tokens), passes, kept


def generate_drafted(config: ModelConfig, params: Any, draft: Draft, request: Request) -> np.ndarray:
    """Returns the token ids, int32, that answer a request: those of generate_rows, sooner with a good, small draft.

    Args:
      config: the shape; weights are rounded as its compression says.
      params: tree of weights.
      draft: is told how it did.
      request: what is asked.

    Raises:
      ValueError: the request cannot be answered, or the draft has another vocabulary or a smaller window.
    """
    request.check(config)
    check_draft(config, draft.config)
    row = row_of(config, request, prompt_size(config, len(request.prompt)))
    models = inference_config(config), inference_config(draft.config), bucket(request.num_tokens, config.seq_len)
    params, draft_params = as_read(config, params), as_read(draft.config, draft.params)
    found_S, count, passes, kept = map(np.asarray, _answer(*models, params, draft_params, row))
    draft.num_passes, draft.num_kept = draft.num_passes + int(passes), draft.num_kept + int(kept)
    return found_S[:count]


def check_draft(config: ModelConfig, draft: ModelConfig) -> None:
    """Raises ValueError of a draft that has another vocabulary than the model, or a smaller window."""
    if draft.num_virtual_tokens != config.num_virtual_tokens:
        raise ValueError(
            f"the draft has a tuned prompt of {draft.num_virtual_tokens} tokens, the model one of "
            f"{config.num_virtual_tokens}: both read the same rows; take a draft that was tuned as the model was."
        )
    if draft.vocab_size != config.vocab_size or draft.seq_len < config.seq_len:
        raise ValueError(
            f"the draft has {draft.vocab_size} tokens and a window of {draft.seq_len}, the model {config.vocab_size} "
            f"and {config.seq_len}; take one of the same sweep."
        )
