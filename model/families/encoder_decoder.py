"""An encoder-decoder: one stack reads the source both ways, another writes the target and reads the source besides.

Both are made of the blocks of the other families and share one table of tokens. Rotary positions run on in all three
attentions: those of a target begin where its source ends. Sources: Vaswani et al. 2017 (arXiv:1706.03762); positions,
norms and the tied table as in RedLLM (Zhang et al. 2025, arXiv:2510.26622).

A row holds S places of source, then T of target, with one pair or several: places of one pair have its number in both,
and see no other. Places that hold nothing are numbered 0.

B batch, S source position, T target position, I = S + T, D model width, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kleiber.model.config import ModelConfig
from kleiber.model.encoder import parts
from kleiber.model.families.decoder import Source, Stack, Transformer
from kleiber.model.layers.embedding import positions_in_documents
from kleiber.model.layers.experts import Routing
from kleiber.model.layers.mask import Mask


class EncoderDecoder(Transformer):
    """Transformer whose layers read what the encoder made of the source; its logits are of the next target token."""

    reads_source = True

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        encoder, decoder = parts(config)
        super().__init__(decoder, rngs)
        self.source = Stack(encoder, rngs)

    def hidden(
        self,
        tokens_BI: jax.Array,
        segment_ids_BI: jax.Array | None = None,
        positions: jax.Array | None = None,
        *,
        is_training: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, Routing | None]:
        """Returns the normalised residual stream x_BTD of the target, which the head reads, and None.

        Args:
          tokens_BI: int32 token ids, source and target in one row.
          segment_ids_BI: the number of the pair at each place; None for one pair that fills its row.
          positions: follow from the pairs.
          is_training: whether to drop what dropout says, which needs a `dropout` stream of rngs.
          rngs: as said.
        """
        keys: tuple[Any, ...] = (None, None)
        if (key := self.key_of(is_training, rngs)) is not None:
            keys = tuple(jax.random.split(key))
        if segment_ids_BI is None:
            segment_ids_BI = jnp.ones(tokens_BI.shape, jnp.int32)
        num_places = self.source.config.seq_len
        source_BS, target_BT = tokens_BI[:, :num_places], tokens_BI[:, num_places:]
        source_ids_BS, target_ids_BT = segment_ids_BI[:, :num_places], segment_ids_BI[:, num_places:]
        read = self.read(source_BS, source_ids_BS, target_ids_BT, keys[0])
        positions_BT = target_positions(source_ids_BS, target_ids_BT)
        x_BTD = checkpoint_name(self.input(target_BT, target_ids_BT, positions_BT), "embedded")
        return self.through(x_BTD, (Mask(target_ids_BT), positions_BT, read), keys[1])

    def read(
        self,
        source_BS: jax.Array,
        source_ids_BS: jax.Array,
        target_ids_BT: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> Source:
        """Returns what the decoder reads of sources, seen from targets that are numbered so."""
        positions_BS = positions_in_documents(source_ids_BS)
        x_BSD = checkpoint_name(self.input(source_BS, source_ids_BS, positions_BS), "source_embedded")
        carried = (Mask(source_ids_BS, is_causal=False), positions_BS, None)
        x_BSD, _ = self.source.through(x_BSD, carried, dropout_key, "source_final")
        return Source(Mask(target_ids_BT, is_causal=False, key_ids_BS=source_ids_BS), x_BSD, positions_BS)


def target_positions(source_ids_BS: jax.Array, target_ids_BT: jax.Array) -> jax.Array:
    """Returns int32 [B, T], the position of each place of a target: its number in its target, counted on from the last
    place of its source."""
    is_same_BTS = target_ids_BT[:, :, None] == source_ids_BS[:, None, :]
    return positions_in_documents(target_ids_BT) + jnp.sum(is_same_BTS, axis=2, dtype=jnp.int32)
