"""From token ids to the residual stream, and the table that a tied head shares.

B batch, T position, D model width, V vocabulary.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.adapters.adapted import PROMPT
from kleiber.model.adapters.prompt import neighbours
from kleiber.model.config import ModelConfig
from kleiber.model.layers.product import look_up, read
from kleiber.model.layers.weight import declare
from kleiber.model.parametrization import rules
from kleiber.parallel.rules import constrain


def fill(parts: Sequence[tuple[jax.Array, jax.Array | None]]) -> jax.Array:
    """Returns the residual stream x_BTD that the encoders of a model's inputs fill, the later over the earlier: of each
    its embeddings [B, S, D] and the places [B, S] of a row that they take, None for the first, which gives all."""
    x_BTD = parts[0][0]
    for embeddings_BSD, places_BS in parts[1:]:
        x_BTD = x_BTD.at[jnp.arange(len(x_BTD))[:, None], places_BS].set(embeddings_BSD)
    return x_BTD


def positions_in_documents(segment_ids_BT: jax.Array) -> jax.Array:
    """Returns int32 [B, T], the position of each token counted from the start of its document in the row."""
    places_T = jnp.arange(segment_ids_BT.shape[1], dtype=jnp.int32)
    is_start_BT = jnp.pad(segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1], ((0, 0), (1, 0)))
    return places_T - jax.lax.cummax(jnp.where(is_start_BT, places_T, 0), axis=1)


class Embedding(nnx.Module):
    """A table of token vectors, with learned positions and the previous-token mix where the config has them."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        d_model = config.d_model
        self.embedding = declare(config, rngs, "embedding", (config.vocab_size, d_model), ("vocab", "embed"))
        if config.positions == "learned":
            self.positions = declare(config, rngs, "positions", (config.seq_len, d_model), (None, "embed"))
        if config.has_previous_token_mix:
            self.mix = declare(config, rngs, "mix", (d_model,), ("embed",))
        if config.has_next_token_mix:
            self.next_mix = declare(config, rngs, "mix", (d_model,), ("embed",))
        if config.num_virtual_tokens:
            self.prompt = declare(config, rngs, PROMPT, (config.num_virtual_tokens, d_model), (None, "embed"))

    def __call__(
        self, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None = None, positions_BT: jax.Array | None = None
    ) -> jax.Array:
        """Returns x_BTD in the compute dtype: embeddings times the parametrization's input multiplier.

        Args:
          tokens_BT: int32 token ids; T at most seq_len when positions are learned. Ids behind the vocabulary are
            virtual tokens, where the config has any.
          segment_ids_BT: integer document of each; None for one document a row.
          positions_BT: integer position of each; None for 0, 1, ... from the start of each document.
        """
        length = tokens_BT.shape[1]
        if length > self.config.seq_len and self.config.positions == "learned":
            raise ValueError(f"{length} tokens, but seq_len gives learned positions for {self.config.seq_len} only.")
        dtype = self.config.compute_dtype
        x_BTD = constrain(self._looked_up(tokens_BT), ("batch", "seq", None))
        if self.config.positions == "learned":
            if positions_BT is None and segment_ids_BT is not None:
                positions_BT = positions_in_documents(segment_ids_BT)
            x_BTD = x_BTD + look_up(self.positions, slice(length) if positions_BT is None else positions_BT, dtype)
        x_BTD = constrain(x_BTD * rules(self.config)["embedding"].multiplier, ("batch", "seq", None))
        mixed_BTD, segment_ids_BT = x_BTD, neighbours(self.config, tokens_BT, segment_ids_BT)
        if self.config.has_previous_token_mix:
            mixed_BTD = mixed_BTD + read(self.mix, dtype) * _neighbour(x_BTD, segment_ids_BT, is_before=True)
        if self.config.has_next_token_mix:
            mixed_BTD = mixed_BTD + read(self.next_mix, dtype) * _neighbour(x_BTD, segment_ids_BT, is_before=False)
        return mixed_BTD

    def _looked_up(self, tokens_BT: jax.Array) -> jax.Array:
        """Returns the vector of each token, of the table or of the virtual ones."""
        dtype, size = self.config.compute_dtype, self.config.vocab_size
        if not self.config.num_virtual_tokens:
            return look_up(self.embedding, tokens_BT, dtype, "vocab")
        x_BTD = look_up(self.embedding, jnp.minimum(tokens_BT, size - 1), dtype, "vocab")
        virtual_BTD = look_up(self.prompt, jnp.maximum(tokens_BT - size, 0), dtype)
        return jnp.where((tokens_BT >= size)[..., None], virtual_BTD, x_BTD)


def _neighbour(x_BTD: jax.Array, segment_ids_BT: jax.Array | None, is_before: bool) -> jax.Array:
    """Returns x_(t-1), or x_(t+1), with zero where a row or a document ends."""
    pad = (1, 0) if is_before else (0, 1)
    x_BTD = jnp.pad(x_BTD[:, :-1] if is_before else x_BTD[:, 1:], ((0, 0), pad, (0, 0)))
    if segment_ids_BT is not None:
        is_same_BT = jnp.pad(segment_ids_BT[:, 1:] == segment_ids_BT[:, :-1], ((0, 0), pad))
        x_BTD = x_BTD * is_same_BT[..., None].astype(x_BTD.dtype)
    return x_BTD
