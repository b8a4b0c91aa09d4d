"""A decoder-only Transformer: token ids in, logits out.

B batch, T position, D model width, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kleiber.model.config import ModelConfig
from kleiber.model.layers.attention import Attention
from kleiber.model.layers.embedding import Embedding
from kleiber.model.layers.experts import Experts, Routing
from kleiber.model.layers.feed_forward import FeedForward
from kleiber.model.layers.norm import Norm
from kleiber.model.layers.product import rows_times_weight
from kleiber.model.layers.weight import declare
from kleiber.model.parametrization import rules
from kleiber.parallel.pipeline import run_layers
from kleiber.parallel.ring import context_size
from kleiber.parallel.rules import constrain, weights_are_whole


def drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Returns x with each unit zeroed with probability rate and the rest scaled up by 1 / (1 - rate); x if no key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


class Block(nnx.Module):
    """x + m attention(norm(x)), then x + m feed_forward(norm(x)), with m the branch multiplier."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, num_stacked: int | None = None):
        self.config = config
        self.attention_norm = Norm(config, rngs, num_stacked)
        self.attention = Attention(config, rngs, num_stacked)
        self.feed_forward_norm = Norm(config, rngs, num_stacked)
        self.feed_forward = (Experts if config.experts else FeedForward)(config, rngs, num_stacked)

    def __call__(
        self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Routing | None]:
        """Returns the residual stream after this block, and what its router did if it has experts."""
        branch = rules(self.config)["output"].multiplier
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        added_BTD = checkpoint_name(self.attention(self.attention_norm(x_BTD), segment_ids_BT), "attention_output")
        x_BTD = x_BTD + branch * drop(added_BTD, self.config.dropout, keys[0])
        added_BTD, routing = self.feed_forward(self.feed_forward_norm(x_BTD)), None
        if isinstance(self.feed_forward, Experts):
            added_BTD, routing = added_BTD
        added_BTD = checkpoint_name(added_BTD, "feed_forward_output")
        x_BTD = x_BTD + branch * drop(added_BTD, self.config.dropout, keys[1])
        return checkpoint_name(constrain(x_BTD, ("batch", "seq", None)), "residual"), routing


class Transformer(nnx.Module):
    """Embedding, blocks, norm, head. Blocks are one stacked Block when scanned, else a dictionary '00', '01', ..."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        self.input = Embedding(config, rngs)
        self.blocks: Any
        if config.has_scanned_layers:
            self.blocks = Block(config, rngs, num_stacked=config.num_layers)
        else:
            self.blocks = nnx.Dict({block_name(layer): Block(config, rngs) for layer in range(config.num_layers)})
        self.final_norm = Norm(config, rngs)
        if not config.has_tied_head:
            self.head = declare(config, rngs, "head", (config.d_model, config.vocab_size), ("embed", "vocab"))

    def hidden(
        self,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array | None = None,
        *,
        is_training: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, Routing | None]:
        """Returns the normalised residual stream x_BTD that the head reads, in the compute dtype, and the routing of
        the experts, a mean over layers, or None without experts."""
        dropout_key = None
        if is_training and self.config.dropout:
            if rngs is None:
                raise ValueError(f"dropout is {self.config.dropout}: training needs rngs with a `dropout` stream.")
            dropout_key = rngs.dropout()
        x_BTD = checkpoint_name(self.input(tokens_BT, segment_ids_BT), "embedded")
        run = self._scan if self.config.has_scanned_layers else self._unroll
        x_BTD, routing = run(x_BTD, segment_ids_BT, dropout_key)
        routing = jax.tree.map(lambda total: total / self.config.num_layers, routing)
        return checkpoint_name(self.final_norm(x_BTD), "final"), routing

    def logits(self, x_BTD: jax.Array) -> jax.Array:
        """Returns float32 logits_BTV of the hidden x_BTD: the product in the compute dtype, summed in float32."""
        head_DV = self.input.embedding[...].T if self.config.has_tied_head else self.head[...]
        # R: positions of all rows, flattened where kleiber.model.layers.product would.
        x_RD = x_BTD if context_size() > 1 else x_BTD.reshape(-1, x_BTD.shape[-1])
        if x_RD.dtype == jnp.float32 and weights_are_whole():
            logits_RV = rows_times_weight(x_RD, head_DV.astype(jnp.float32))
        else:
            logits_RV = jnp.matmul(x_RD, head_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32)
        logits_BTV = logits_RV.reshape(*x_BTD.shape[:-1], -1) * rules(self.config)["head"].multiplier
        return checkpoint_name(constrain(logits_BTV, ("batch", "seq", "vocab")), "logits")

    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array | None = None,
        *,
        is_training: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Returns the logits of the next token at each position.

        Args:
          tokens_BT: int32 token ids; T at most seq_len when positions are learned.
          segment_ids_BT: int32 document of each position; attention and the previous-token mix stay within one.
            None reads each row as one document.
          is_training: whether units are dropped.
          rngs: gives the `dropout` stream; needed only when training with dropout.

        Returns:
          float32 logits_BTV.
        """
        return self.logits(self.hidden(tokens_BT, segment_ids_BT, is_training=is_training, rngs=rngs)[0])

    def _runner(self, graphdef: nnx.GraphDef) -> Callable[..., tuple[jax.Array, Routing | None]]:
        """Returns one block as a pure function of its weights, the residual stream and a key."""
        run = functools.partial(_run_block, graphdef)
        return jax.checkpoint(run) if self.config.has_remat else run

    def _unroll(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None, dropout_key: jax.Array | None):
        """Runs the blocks one after another, each compiled on its own; returns x and the summed routing."""
        routings = []
        for layer in range(self.config.num_layers):
            graphdef, state = nnx.split(self.blocks[block_name(layer)])
            x_BTD, routing = self._runner(graphdef)(state, x_BTD, segment_ids_BT, _key_of_layer(dropout_key, layer))
            routings.append(routing)
        return x_BTD, jax.tree.map(lambda *parts: sum(parts), *routings)

    def _scan(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None, dropout_key: jax.Array | None):
        """Runs the blocks as one compiled block over the stacked weights, or as pipeline stages where the mesh has
        them; returns x and the summed routing."""
        graphdef, stacked = nnx.split(self.blocks)
        run = self._runner(graphdef)

        def layer(state: nnx.State, index: jax.Array, x_BTD: jax.Array, segment_ids_BT: jax.Array | None):
            return run(state, x_BTD, segment_ids_BT, _key_of_layer(dropout_key, index))

        return run_layers(layer, stacked, x_BTD, segment_ids_BT)


def block_name(layer: int) -> str:
    """Returns the name of a block in the tree of weights; two digits, so that names sort as layers do up to 100."""
    return f"{layer:02d}"


def _key_of_layer(dropout_key: jax.Array | None, layer: int | jax.Array) -> jax.Array | None:
    return None if dropout_key is None else jax.random.fold_in(dropout_key, layer)


def _run_block(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    x_BTD: jax.Array,
    segment_ids_BT: jax.Array | None,
    key: jax.Array | None,
) -> tuple[jax.Array, Routing | None]:
    """One block as a pure function of its weights, which scan and checkpoint need."""
    return nnx.merge(graphdef, state)(x_BTD, segment_ids_BT, key)
