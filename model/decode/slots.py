"""Rows that read and draw side by side, each from a place of its own: what one holds, and the loop that moves all.

All rows write their newest token at one place of the memory, which goes round it, and each counts its positions from
the place of its own first token. So a step writes one plain slice, whatever the rows have been through, and a row that
begins later needs no other program.

B rows, K key/value heads, H head size, P places of a prompt, S places of the memory, T new tokens of a row,
V vocabulary, C tokens drawn by one call.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.config import ModelConfig
from kleiber.model.decode.inference import Row, stream
from kleiber.model.decode.sample import draw
from kleiber.model.families.decoder import empty_memory
from kleiber.model.functional import as_module
from kleiber.model.layers.attention import Recall

NO_TOKEN = -1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Slots:
    """Rows in the middle of their answers; free ones have num_left 0."""

    place: jax.Array
    """int32, where the newest token of every row goes."""
    memory: Any
    """Of all that the rows have read, [B, K, S, H] a layer: the newest token is not in it yet."""
    last_two_B2: jax.Array
    """int32, the newest token and the one before."""
    starts_B: jax.Array
    """int32, the place of the first token."""
    num_left_B: jax.Array
    """int32, how many more to draw."""
    num_drawn_B: jax.Array
    """int32, number of the next draw in the row's stream."""
    keys_B: jax.Array
    """Typed, of the streams."""
    numbers_B3: jax.Array
    """How it draws, of a Sampling."""
    is_stop_BV: jax.Array
    """bool, tokens at which it ends."""


def prefill(config: ModelConfig, params: Any, tokens_BP: jax.Array, starts_B: jax.Array) -> Any:
    """Returns the memory, of P places, of rows that all end at the last of them.

    Args:
      config: of inference_config.
      params: tree of weights.
      tokens_BP: int32, with anything before the start of a row.
      starts_B: int32, 0 to P; P is a row of nothing.
    """
    num_rows, size = tokens_BP.shape
    memory = empty_memory(config, num_rows, size)
    recall, positions_BP = _recall(-starts_B, jnp.int32(0), size, size)
    return as_module(config, params).remember(tokens_BP, recall, positions_BP, memory)[1]


def step(
    config: ModelConfig, params: Any, tokens_BT: jax.Array, place: jax.Array, positions_B: jax.Array, memory: Any
) -> tuple[jax.Array, Any]:
    """Returns (float32 logits_BTV of what follows each new token, memory with the new ones in it).

    Args:
      config: of inference_config.
      params: tree of weights.
      tokens_BT: int32, the token before, which the memory holds, and T new ones.
      place: int32, where the first new one goes; the last may not pass the end of the memory.
      positions_B: int32, the first new one's in each row; -1 is a place before the row.
      memory: of the tokens before, S - T at most.
    """
    num_places, num_new = jax.tree.leaves(memory)[0].shape[-2], tokens_BT.shape[1] - 1
    recall, positions_BT = _recall(positions_B, place, num_new, num_places)
    positions_BT = jnp.concatenate([positions_B[:, None] - 1, positions_BT], axis=1)
    model = as_module(config, params)
    x_BTD, memory = model.remember(tokens_BT, recall, positions_BT, memory, num_known=1)
    return model.logits(x_BTD), memory


def _recall(firsts_B: jax.Array, place: jax.Array, num_new: int, num_places: int) -> tuple[Recall, jax.Array]:
    """Returns what new tokens of rows see, the first of them at a place and a position, and their positions_BT."""
    ages_TS = (place + jnp.arange(num_new)[:, None] - jnp.arange(num_places)) % num_places
    positions_BT = firsts_B[:, None] + jnp.arange(num_new)
    return Recall(ages_TS <= positions_BT[:, :, None], place), positions_BT


def widen(memory: Any, num_places: int) -> Any:
    """Returns the memory with places behind those that it has, num_places in all."""

    def pad(held: jax.Array) -> jax.Array:
        return jnp.pad(held, [(0, 0)] * (held.ndim - 2) + [(0, num_places - held.shape[-2]), (0, 0)])

    return jax.tree.map(pad, memory)


def begin(config: ModelConfig, params: Any, rows: Row, num_places: int) -> Slots:
    """Returns the slots, of a memory of so many places, of B rows whose prompts are read, all but the last token."""
    size = rows.tokens_P.shape[1]
    starts_B = size - rows.length
    return Slots(
        place=jnp.int32(size % num_places),
        memory=widen(prefill(config, params, rows.tokens_P, starts_B), num_places),
        last_two_B2=rows.last_two_2,
        starts_B=starts_B,
        num_left_B=rows.num_tokens,
        num_drawn_B=rows.first,
        keys_B=jax.vmap(stream)(rows.seed, rows.row),
        numbers_B3=rows.numbers_3,
        is_stop_BV=rows.is_stop_V,
    )


def advance(
    config: ModelConfig, params: Any, slots: Slots, most: jax.Array, num_columns: int, ends_early: bool | jax.Array
) -> tuple[Slots, jax.Array]:
    """Returns (the rows after their next tokens, those tokens [B, C], NO_TOKEN where a row had ended).

    Args:
      config: of inference_config.
      params: tree of weights.
      slots: the rows.
      most: int32, so many tokens of each, up to C; fewer when all rows have ended.
      num_columns: C.
      ends_early: whether to stop as soon as any row has ended.
    """
    num_places = jax.tree.leaves(slots.memory)[0].shape[-2]
    num_live = jnp.sum(slots.num_left_B > 0)

    def is_going(carry):
        index, slots, _ = carry
        left = jnp.sum(slots.num_left_B > 0)
        return (index < most) & (left > 0) & ~(ends_early & (left < num_live))

    def move(carry):
        index, slots, found_BC = carry
        positions_B = (slots.place - slots.starts_B) % num_places
        logits_B1V, memory = step(config, params, slots.last_two_B2, slots.place, positions_B, slots.memory)
        keys_B = jax.vmap(jax.random.fold_in)(slots.keys_B, slots.num_drawn_B)
        new_B = draw(slots.numbers_B3, logits_B1V[:, 0], keys_B)
        is_told_B = (slots.num_left_B > 0) & ~jnp.take_along_axis(slots.is_stop_BV, new_B[:, None], axis=1)[:, 0]
        told_B1 = jnp.where(is_told_B, new_B, NO_TOKEN)[:, None]
        slots = replace(
            slots,
            place=(slots.place + 1) % num_places,
            memory=memory,
            last_two_B2=jnp.stack([slots.last_two_B2[:, 1], new_B], axis=1),
            num_left_B=jnp.where(is_told_B, slots.num_left_B - 1, 0),
            num_drawn_B=slots.num_drawn_B + 1,
        )
        return index + 1, slots, jax.lax.dynamic_update_slice_in_dim(found_BC, told_B1, index, axis=1)

    found_BC = jnp.full((len(slots.starts_B), num_columns), NO_TOKEN, jnp.int32)
    _, slots, found_BC = jax.lax.while_loop(is_going, move, (jnp.int32(0), slots, found_BC))
    return slots, found_BC
