"""The target of a source: what an encoder-decoder says word by word, the likeliest by itself or by beam search.

A source is read once, and each layer keeps its keys and values; what is written is remembered as by generate.py. A beam
holds the K likeliest beginnings; one ends where its end is among their K likeliest continuations, so that a beam of one
is greedy decoding. Ended ones are compared by log probability / ((5 + length) / 6)^length_penalty (Wu et al. 2016,
arXiv:1609.08144, equation 14), and the search is over when K have ended, or none that goes on can come to be the best.

B sources, K beginnings, R = B K rows, S places of source, T of target, D model width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.fields import check_fields
from kleiber.model.config import ModelConfig
from kleiber.model.families.decoder import Source, block_name, empty_memory
from kleiber.model.functional import as_module
from kleiber.model.layers.attention import Memory, Recall
from kleiber.model.layers.mask import Mask

SOURCES_AT_ONCE = 16
NEVER = -1e9


@dataclass(frozen=True)
class Beam:
    """How a target is searched for."""

    width: int = 4
    """Beginnings that are kept; 1 takes the likeliest token at each place."""
    length_penalty: float = 0.6
    """Exponent of the length by which log probabilities are divided; 0 compares probabilities."""

    def __post_init__(self) -> None:
        check_fields(self, width="[1, inf)", length_penalty="[0, inf)")


def translate(
    config: ModelConfig, params: Any, sources: Sequence[np.ndarray], end: int, beam: Beam = Beam()
) -> list[np.ndarray]:
    """Returns the target of each source, int32 token ids without the end.

    Args:
      config: of an encoder_decoder.
      params: tree of weights.
      sources: token ids, each with its end behind it; at most config.encoder.seq_len of them.
      end: the token that ends a text.
      beam: how to search.

    Raises:
      ValueError: a source is empty, or longer than the encoder reads.
    """
    assert config.encoder is not None, "an encoder_decoder has an encoder"
    places, found = config.encoder.seq_len, [np.zeros(0, np.int32)] * len(sources)
    for source in sources:
        if not 1 <= len(source) <= places:
            raise ValueError(f"a source of {len(source)} tokens, expected 1 to {places}, those that the encoder reads.")
    config, params = _unrolled(replace(config, dropout=0.0), params)
    order = sorted(range(len(sources)), key=lambda n: len(sources[n]))
    for start in range(0, len(order), SOURCES_AT_ONCE):
        chosen = order[start : start + SOURCES_AT_ONCE]
        rows = np.zeros((SOURCES_AT_ONCE, places), np.int32)
        lengths = np.ones(SOURCES_AT_ONCE, np.int32)
        for row, n in enumerate(chosen):
            rows[row, : len(sources[n])], lengths[row] = sources[n], len(sources[n])
        tokens, counts = map(np.asarray, search(config, beam, params, rows, lengths, jnp.int32(end)))
        for row, n in enumerate(chosen):
            found[n] = tokens[row, : counts[row]]
    return found


def _unrolled(config: ModelConfig, params: Any) -> tuple[ModelConfig, Any]:
    """Returns shape and weights with layers one by one, as the search runs them."""
    if not config.has_scanned_layers:
        return config, params

    def apart(blocks: Any) -> Any:
        count = len(jax.tree.leaves(blocks)[0])
        return {block_name(n): jax.tree.map(lambda leaf, n=n: leaf[n], blocks) for n in range(count)}

    source = {**params["source"], "blocks": apart(params["source"]["blocks"])}
    whole = {**params, "blocks": apart(params["blocks"]), "source": source}
    return replace(config, has_scanned_layers=False), whole


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Search:
    """Where a search stands after `place` tokens."""

    place: jax.Array
    tokens_BKT: jax.Array
    """Beginnings, the likeliest first."""
    logs_BK: jax.Array
    ended_BKT: jax.Array
    scores_BK: jax.Array
    """Of the ended ones, NEVER where there is none."""
    lengths_BK: jax.Array
    num_ended_B: jax.Array
    last_R2: jax.Array
    """The last two tokens of each."""
    memory: list[Memory]


@partial(jax.jit, static_argnums=(0, 1))
def search(
    config: ModelConfig, beam: Beam, params: Any, source_BS: jax.Array, lengths_B: jax.Array, end: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns (int32 [B, T], the best target of each source, first; int32 [B], how many tokens it has before its end,
    or T where it has none).

    Args:
      config: of unrolled layers.
      beam: how to search.
      params: tree of weights.
      source_BS: int32.
      lengths_B: int32, tokens of each source.
      end: int32, the token that ends a text.
    """
    model, width, places = as_module(config, params), beam.width, config.seq_len
    num_sources, rows = len(source_BS), len(source_BS) * beam.width
    ids_BS = (jnp.arange(source_BS.shape[1]) < lengths_B[:, None]).astype(jnp.int32)
    read = model.read(source_BS, ids_BS, jnp.ones((num_sources, 1), jnp.int32))
    cross = [model.blocks[block_name(n)].cross_attention for n in range(config.num_layers)]
    held = [each.keys_and_values(read.x_BSD, read.positions_BS) for each in cross]
    held, ids_RS = jax.tree.map(lambda leaf: jnp.repeat(leaf, width, axis=0), (held, ids_BS))
    mask, starts_R1 = Mask(jnp.ones((rows, 1), jnp.int32), False, ids_RS), jnp.repeat(lengths_B, width)[:, None]

    def logs_of(state: _Search) -> tuple[jax.Array, list[Memory]]:
        """Returns (log probabilities [B, K, V] of what follows, memory with the last token in it)."""
        is_seen = (jnp.arange(places) <= state.place)[None, None]
        recall, positions_R2 = Recall(is_seen, state.place), starts_R1 + state.place + jnp.arange(-1, 1)
        has_before_R2 = jnp.broadcast_to(jnp.stack([state.place > 0, True]), (rows, 2)).astype(jnp.int32)
        x_R1D = model.input(state.last_R2, has_before_R2, positions_R2)[:, 1:]
        memory = []
        for n, (own, other) in enumerate(zip(state.memory, held, strict=True)):
            source = Source(mask, memory=other)
            x_R1D, own = model.blocks[block_name(n)](x_R1D, recall, positions_R2[:, 1:], None, own, source)
            memory.append(own)
        logits_RV = model.logits(model.final_norm(x_R1D))[:, 0]
        return jax.nn.log_softmax(logits_RV).reshape(num_sources, width, -1), memory

    def is_going(state: _Search) -> jax.Array:
        bound_B = state.logs_BK[:, 0] / _penalty(beam, places)
        is_done_B = (state.num_ended_B >= width) | (state.scores_BK.max(axis=1) >= bound_B)
        return (state.place < places) & ~jnp.all(is_done_B)

    def advance(state: _Search) -> _Search:
        logs_BKV, memory = logs_of(state)
        return _advanced(beam, state, state.logs_BK[..., None] + logs_BKV, memory, end)

    empty = jnp.zeros((num_sources, width, places), jnp.int32)
    never = jnp.full((num_sources, width), NEVER)
    state = _Search(
        place=jnp.int32(0),
        tokens_BKT=empty,
        logs_BK=never.at[:, 0].set(0.0),  # at first all beginnings are one
        ended_BKT=empty,
        scores_BK=never,
        lengths_BK=jnp.zeros((num_sources, width), jnp.int32),
        num_ended_B=jnp.zeros(num_sources, jnp.int32),
        last_R2=jnp.full((rows, 2), end, jnp.int32),
        memory=empty_memory(replace(config, has_scanned_layers=False), rows, places),
    )
    state = jax.lax.while_loop(is_going, advance, state)
    best_B = state.scores_BK.argmax(axis=1)
    tokens_BT, lengths = (
        jax.vmap(lambda rows, n: rows[n])(each, best_B) for each in (state.ended_BKT, state.lengths_BK)
    )
    has_ended_B = state.num_ended_B > 0
    return (
        jnp.where(has_ended_B[:, None], tokens_BT, state.tokens_BKT[:, 0]),
        jnp.where(has_ended_B, lengths, state.place),
    )


def _penalty(beam: Beam, length: Any) -> Any:
    return ((5.0 + length) / 6.0) ** beam.length_penalty


def _advanced(beam: Beam, state: _Search, total_BKV: jax.Array, memory: list[Memory], end: jax.Array) -> _Search:
    """Returns the search one token further.

    Args:
      beam: how to search.
      state: before.
      total_BKV: float32, log probabilities of every continuation, all its tokens together.
      memory: of every layer, with the last token in it.
      end: the token that ends a text.
    """
    num_sources, width, vocab_size = total_BKV.shape
    best_BC, where_BC = jax.lax.top_k(total_BKV.reshape(num_sources, -1), min(2 * width, width * vocab_size))
    from_BC, new_BC = where_BC // vocab_size, where_BC % vocab_size
    begun_BCT = jnp.take_along_axis(state.tokens_BKT, from_BC[..., None], axis=1)
    is_end_BC = new_BC == end

    ends_BK = is_end_BC[:, :width] & (best_BC[:, :width] > NEVER / 2)
    ended_BK = jnp.where(ends_BK, best_BC[:, :width] / _penalty(beam, state.place + 1), NEVER)
    scores, ended, lengths = (
        jnp.concatenate(each, axis=1)
        for each in (
            (state.scores_BK, ended_BK),
            (state.ended_BKT, begun_BCT[:, :width]),
            (state.lengths_BK, jnp.full_like(state.lengths_BK, state.place)),
        )
    )
    scores_BK, kept_BK = jax.lax.top_k(scores, width)

    logs_BK, chosen_BK = jax.lax.top_k(jnp.where(is_end_BC, NEVER, best_BC), width)
    new_BK, from_BK = (jnp.take_along_axis(each, chosen_BK, axis=1) for each in (new_BC, from_BC))
    tokens_BKT = jnp.take_along_axis(begun_BCT, chosen_BK[..., None], axis=1)
    rows_R = (jnp.arange(num_sources)[:, None] * width + from_BK).reshape(-1)
    return _Search(
        place=state.place + 1,
        tokens_BKT=jax.lax.dynamic_update_slice_in_dim(tokens_BKT, new_BK[..., None], state.place, axis=2),
        logs_BK=logs_BK,
        ended_BKT=jnp.take_along_axis(ended, kept_BK[..., None], axis=1),
        scores_BK=scores_BK,
        lengths_BK=jnp.take_along_axis(lengths, kept_BK, axis=1),
        num_ended_B=state.num_ended_B + jnp.sum(ends_BK, axis=1, dtype=jnp.int32),
        last_R2=jnp.stack([state.last_R2[rows_R, 1], new_BK.reshape(-1)], axis=1),
        memory=jax.tree.map(lambda leaf: leaf[rows_R], memory),
    )
