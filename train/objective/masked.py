"""Masked language modelling: hidden tokens are predicted from both sides.

Source: Devlin et al. 2019 (arXiv:1810.04805), section 3.1; here every chosen token is hidden, none is left or swapped.

B batch, T position.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch

HIDDEN_TOKEN = 0
"""What stands in place of a hidden token: an id that text never has (byte 0, and SentencePiece's unknown piece, which a
model with all bytes in reserve does not need)."""


def hide(config: TrainConfig, batch: Batch, key: jax.Array | None) -> Batch:
    """Returns the batch with masking.num_spans spans of each row hidden; they alone weigh anything as targets.

    What is hidden of a row depends on the row and the key alone. A row has seq_len tokens, or one more, which is left
    out.

    Args:
      config: the trunk.
      batch: int [B, T] or [B, T + 1] inputs, without targets.
      key: of the step; None hides the same places whenever a row is measured.
    """
    length, masking = config.model.seq_len, config.masking
    tokens_BT = batch.inputs[:, :length].astype(jnp.int32)
    segments = None if batch.segments is None else batch.segments[:, :length]
    key = jax.random.key(0) if key is None else key
    # A digest of each row: sums of its tokens times odd numbers, modulo 2^32.
    factors_T = np.random.default_rng(length).integers(0, 2**31, length, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    digests_B = jnp.sum(tokens_BT.astype(jnp.uint32) * factors_T, axis=1)
    num_spans, span = masking.num_spans(length), masking.span
    places = length // span - (span > 1)  # the spans begin a drawn number of tokens after the start of the row

    def hidden_of_row(digest: jax.Array) -> jax.Array:
        order_key, shift_key = jax.random.split(jax.random.fold_in(key, digest))
        chosen = jax.random.permutation(order_key, places)[:num_spans]
        start = jax.random.randint(shift_key, (), 0, span)
        where = (start + chosen[:, None] * span + jnp.arange(span)).reshape(-1)
        return jnp.zeros(length, bool).at[where].set(True)

    is_hidden_BT = jax.vmap(hidden_of_row)(digests_B)
    inputs_BT = jnp.where(is_hidden_BT, HIDDEN_TOKEN, tokens_BT)
    return Batch(inputs_BT, tokens_BT, is_hidden_BT.astype(jnp.float32), segments)
