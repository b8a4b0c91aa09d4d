"""From token ids to the residual stream, and the table that a tied head shares.

B batch, T position, D model width, V vocabulary.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.config import ModelConfig
from kleiber.model.layers.weight import declare
from kleiber.model.parametrization import rules
from kleiber.parallel.rules import constrain


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

    def __call__(self, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None = None) -> jax.Array:
        """Returns x_BTD in the compute dtype: embeddings times the parametrization's input multiplier."""
        length = tokens_BT.shape[1]
        if length > self.config.seq_len and self.config.positions == "learned":
            raise ValueError(f"{length} tokens, but seq_len gives learned positions for {self.config.seq_len} only.")
        # Whole rows, gathered over fsdp as any weight is, so that looking up leaves the batch split as it is.
        table_VD = constrain(self.embedding[...].astype(self.config.compute_dtype), ("vocab", None))
        x_BTD = constrain(table_VD[tokens_BT], ("batch", "seq", None))
        if self.config.positions == "learned":
            x_BTD = x_BTD + self.positions[...][:length].astype(x_BTD.dtype)
        x_BTD = constrain(x_BTD * rules(self.config)["embedding"].multiplier, ("batch", "seq", None))
        return self._mix_previous(x_BTD, segment_ids_BT) if self.config.has_previous_token_mix else x_BTD

    def _mix_previous(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
        """Returns x_t + mix * x_(t-1), with nothing before the first position of a row or of a document."""
        previous_BTD = jnp.pad(x_BTD[:, :-1], ((0, 0), (1, 0), (0, 0)))
        if segment_ids_BT is not None:
            is_same_BT = jnp.pad(segment_ids_BT[:, 1:] == segment_ids_BT[:, :-1], ((0, 0), (1, 0)))
            previous_BTD = previous_BTD * is_same_BT[..., None].astype(x_BTD.dtype)
        return x_BTD + self.mix[...].astype(x_BTD.dtype) * previous_BTD
