"""Prompt tuning: vectors in front of every row, which are learnt while the model stays (Lester et al. 2021,
arXiv:2104.08691).

They are virtual tokens, with the ids behind those of the vocabulary: a row in front of which they stand passes the
layers as any other, takes up as many positions more, and gives no logits for them. Every document of a row sees them,
and counts its positions from theirs on, as if it stood alone; those of an encoder see the text in turn where a row is
one document.

B batch, T position, N virtual tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp

from kleiber.model.config import ModelConfig


def in_front(
    config: ModelConfig, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None, positions_BT: jax.Array | None
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Returns (tokens, documents, positions) of rows with the virtual tokens of a config in front, [B, N + T] each;
    those that are None stay so.

    Args:
      config: with an adapter of kind `prompt`.
      tokens_BT: integer token ids.
      segment_ids_BT: integer document of each, counted from 0; None for one document a row. Virtual ones get -1.
      positions_BT: integer position of each as if nothing stood in front; None for 0, 1, ...
    """
    count, rows = config.num_virtual_tokens, len(tokens_BT)

    def behind(first: jax.Array, array_BT: jax.Array) -> jax.Array:
        first_BN = jnp.broadcast_to(first.astype(array_BT.dtype), (rows, count))
        return jnp.concatenate([first_BN, array_BT], axis=1)

    tokens_BT = behind(config.vocab_size + jnp.arange(count), tokens_BT.astype(jnp.int32))
    if positions_BT is not None:
        positions_BT = behind(jnp.arange(count), positions_BT + count)
    if segment_ids_BT is not None:
        segment_ids_BT = behind(jnp.full(count, -1), segment_ids_BT)
    return tokens_BT, segment_ids_BT, positions_BT


def neighbours(config: ModelConfig, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array | None:
    """Returns the document ids by which a token is mixed with its neighbours: a virtual one has none."""
    if not config.num_virtual_tokens:
        return segment_ids_BT
    own = jnp.zeros_like(tokens_BT) if segment_ids_BT is None else segment_ids_BT
    return jnp.where(tokens_BT >= config.vocab_size, -1 - tokens_BT, own)
