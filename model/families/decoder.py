"""A Transformer of one stack, decoder or encoder: token ids in, logits out.

B batch, T position, S position of a source, D model width, V vocabulary.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kleiber.model.adapters.prompt import in_front
from kleiber.model.config import ModelConfig
from kleiber.model.layers.attention import Attention, KeysAndValues, Memory, Recall
from kleiber.model.layers.embedding import Embedding, fill, positions_in_documents
from kleiber.model.layers.experts import Experts, Routing
from kleiber.model.layers.feed_forward import FeedForward
from kleiber.model.layers.mask import Mask
from kleiber.model.layers.norm import Norm
from kleiber.model.layers.product import scores
from kleiber.model.layers.recomputation import with_recomputation
from kleiber.model.layers.weight import declare
from kleiber.model.parametrization import rules
from kleiber.parallel.pipeline import run_layers
from kleiber.parallel.rules import constrain


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Source:
    """Another sequence that layers read by cross-attention."""

    mask: Mask
    """Which of it each position sees."""
    x_BSD: jax.Array | None = None
    """It, normalised; None where the memory of a layer holds all that is asked of it."""
    positions_BS: jax.Array | None = None
    memory: KeysAndValues | None = None
    """Keys and values of one layer, where they are made already."""


Carried = tuple[Mask, jax.Array | None, Source | None]
"""What every layer reads besides x: the mask, positions_BT, and the source, if there is one."""


def drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Returns x with each unit zeroed with probability rate and the rest scaled up by 1 / (1 - rate); x if no key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


class LayerBlock(nnx.Module):
    """x + m attention(norm(x)), then x + m feed_forward(norm(x)), with m the branch multiplier; between them, where it
    reads a source, x + m cross_attention(norm(x), source)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, num_stacked: int | None = None, reads_source: bool = False):
        self.config = config
        self.attention_norm = Norm(config, rngs, num_stacked)
        self.attention = Attention(config, rngs, num_stacked)
        if reads_source:
            self.cross_attention_norm = Norm(config, rngs, num_stacked)
            self.cross_attention = Attention(config, rngs, num_stacked)
        self.feed_forward_norm = Norm(config, rngs, num_stacked)
        self.feed_forward = (Experts if config.experts else FeedForward)(config, rngs, num_stacked)

    def __call__(
        self,
        x_BTD: jax.Array,
        mask: Mask | Recall,
        positions_BT: jax.Array | None,
        dropout_key: jax.Array | None,
        memory: Memory | None = None,
        source: Source | None = None,
    ) -> tuple[jax.Array, Routing | Memory | None]:
        """Returns the residual stream after this layer, and what its router did if it has experts; with a memory
        (Attention says what that is) the memory in its place."""
        branch = rules(self.config)["output"].multiplier
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        attended_BTD, memory = self.attention(self.attention_norm(x_BTD), mask, positions_BT, memory)
        attended_BTD = checkpoint_name(attended_BTD, "attention_output")
        x_BTD = x_BTD + branch * drop(attended_BTD, self.config.dropout, keys[0])
        if source is not None:
            x_BTD = x_BTD + branch * self._read(x_BTD, source, positions_BT, keys[0])
        added = self.feed_forward(self.feed_forward_norm(x_BTD))
        added_BTD, routing = added if isinstance(added, tuple) else (added, None)
        added_BTD = checkpoint_name(added_BTD, "feed_forward_output")
        x_BTD = x_BTD + branch * drop(added_BTD, self.config.dropout, keys[1])
        return checkpoint_name(constrain(x_BTD, ("batch", "seq", None)), "residual"), memory or routing

    def _read(
        self, x_BTD: jax.Array, source: Source, positions_BT: jax.Array | None, dropout_key: jax.Array | None
    ) -> jax.Array:
        """Returns what cross-attention adds, before the branch multiplier."""
        memory = source.memory
        if memory is None:
            assert source.x_BSD is not None, "a source is given as it is, or by its keys and values"
            memory = self.cross_attention.keys_and_values(source.x_BSD, source.positions_BS)
        read_BTD, _ = self.cross_attention(self.cross_attention_norm(x_BTD), source.mask, positions_BT, memory)
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, 1)
        return drop(checkpoint_name(read_BTD, "cross_attention_output"), self.config.dropout, key)


class Stack(nnx.Module):
    """Layers and a norm. The layers are one stacked LayerBlock when scanned, else a dictionary '00', '01', ..."""

    reads_source = False
    """Whether each layer reads another sequence besides."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        self.blocks: Any
        if config.has_scanned_layers:
            self.blocks = LayerBlock(config, rngs, config.num_layers, self.reads_source)
        else:
            layers = range(config.num_layers)
            each = {block_name(layer): LayerBlock(config, rngs, None, self.reads_source) for layer in layers}
            self.blocks = nnx.Dict(each)
        self.final_norm = Norm(config, rngs)

    def through(
        self, x_BTD: jax.Array, carried: Carried, dropout_key: jax.Array | None, called: str = "final"
    ) -> tuple[jax.Array, Routing | None]:
        """Returns (the residual stream after all layers, normalised, and its name in a trace; the routing of their
        experts, a mean over layers, None without)."""
        run = self._scan if self.config.has_scanned_layers else self._unroll
        x_BTD, routing = run(x_BTD, carried, dropout_key)
        routing = jax.tree.map(lambda total: total / self.config.num_layers, routing)
        return checkpoint_name(self.final_norm(x_BTD), called), routing

    def _runner(self, graphdef: nnx.GraphDef) -> Callable[..., tuple[jax.Array, Routing | None]]:
        """Returns one layer block as a pure function of its weights, the residual stream, what it carries and a key."""
        return with_recomputation(self.config, functools.partial(_run_block, graphdef))

    def _unroll(self, x_BTD: jax.Array, carried: Carried, dropout_key: jax.Array | None):
        """Runs the layers one after another, each compiled on its own; returns x and the summed routing."""
        routings = []
        for layer in range(self.config.num_layers):
            graphdef, state = nnx.split(self.blocks[block_name(layer)])
            x_BTD, routing = self._runner(graphdef)(state, x_BTD, carried, _key_of_layer(dropout_key, layer))
            routings.append(routing)
        return x_BTD, jax.tree.map(lambda *parts: sum(parts), *routings)

    def _scan(self, x_BTD: jax.Array, carried: Carried, dropout_key: jax.Array | None):
        """Runs the layers as one compiled layer block over the stacked weights, or as pipeline stages where the mesh
        has them; returns x and the summed routing."""
        graphdef, stacked = nnx.split(self.blocks)
        run = self._runner(graphdef)

        def layer(state: nnx.State, index: jax.Array, x_BTD: jax.Array, carried: Carried):
            return run(state, x_BTD, carried, _key_of_layer(dropout_key, index))

        return run_layers(layer, stacked, x_BTD, carried)


class Transformer(Stack):
    """Embedding, layers, norm, head."""

    encoder: Callable[..., Any] = Embedding
    """What turns the input into the residual stream."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.input = self.encoder(config, rngs)
        super().__init__(config, rngs)
        if not config.has_tied_head:
            self.head = declare(config, rngs, "head", (config.d_model, config.vocab_size), ("embed", "vocab"))

    def hidden(
        self,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        *,
        is_training: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, Routing | None]:
        """Returns the normalised residual stream x_BTD that the head reads, in the compute dtype, and the routing of
        the experts, a mean over layers, or None without experts. Arguments as __call__."""
        dropout_key, num_virtual = self.key_of(is_training, rngs), self.config.num_virtual_tokens
        if num_virtual:
            if positions_BT is None and segment_ids_BT is not None:
                positions_BT = positions_in_documents(segment_ids_BT)
            tokens_BT, segment_ids_BT, positions_BT = in_front(self.config, tokens_BT, segment_ids_BT, positions_BT)
        x_BTD = fill([(self.input(tokens_BT, segment_ids_BT, positions_BT), None)])
        x_BTD = checkpoint_name(x_BTD, "embedded")
        mask = Mask(segment_ids_BT, self.config.is_causal, num_shared=num_virtual)
        x_BTD, routing = self.through(x_BTD, (mask, positions_BT, None), dropout_key)
        return x_BTD[:, num_virtual:], routing

    def key_of(self, is_training: bool, rngs: nnx.Rngs | None) -> jax.Array | None:
        """Returns the key of what is dropped, None where nothing is. Raises ValueError if rngs have none to give."""
        if not (is_training and self.config.dropout):
            return None
        if rngs is None:
            raise ValueError(f"dropout is {self.config.dropout}: training needs rngs with a `dropout` stream.")
        return rngs.dropout()

    def remember(
        self, tokens_BT: jax.Array, recall: Recall, positions_BT: jax.Array, memory: Any, num_known: int = 0
    ) -> tuple[jax.Array, Any]:
        """Returns hidden, and the memory with new entries in it.

        Args:
          tokens_BT: int32, the new ones behind num_known that the memory holds.
          recall: of the new ones.
          positions_BT: of all of them, counted from the start of each row; below 0 stands padding in front of it.
          memory: of every layer, as empty_memory returns.
          num_known: 0, or 1 where the previous-token mix needs the token before.
        """
        segments_BT = (positions_BT >= 0).astype(jnp.int32)
        positions_BT = jnp.maximum(positions_BT, 0)
        x_BTD = self.input(tokens_BT, segments_BT, positions_BT)[:, num_known:]
        positions_BT = positions_BT[:, num_known:]
        if self.config.has_scanned_layers:
            graphdef, stacked = nnx.split(self.blocks)

            def layer(x_BTD: jax.Array, each: Any) -> tuple[jax.Array, Any]:
                return nnx.merge(graphdef, each[0])(x_BTD, recall, positions_BT, None, each[1])

            x_BTD, memory = jax.lax.scan(layer, x_BTD, (stacked, memory))
            return self.final_norm(x_BTD), memory
        held = []
        for index, each in enumerate(memory):
            x_BTD, each = self.blocks[block_name(index)](x_BTD, recall, positions_BT, None, each)
            held.append(each)
        return self.final_norm(x_BTD), held

    def logits(self, x_BTD: jax.Array) -> jax.Array:
        """Returns float32 logits_BTV of the hidden x_BTD: the product in the compute dtype, summed in float32."""
        is_tied = self.config.has_tied_head
        logits_BTV = scores(x_BTD, self.input.embedding if is_tied else self.head, is_table=is_tied)
        logits_BTV = logits_BTV * rules(self.config)["head"].multiplier
        return checkpoint_name(constrain(logits_BTV, ("batch", "seq", "vocab")), "logits")

    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        *,
        is_training: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Returns the float32 logits_BTV of the next token at each position.

        Token ids and positions (None for 0 .. T-1) are integers; T is at most seq_len when positions are learned.
        Attention and the previous-token mix stay within a document of segment_ids_BT; None reads each row as one.
        Training with dropout needs a `dropout` stream of rngs."""
        x_BTD, _ = self.hidden(tokens_BT, segment_ids_BT, positions_BT, is_training=is_training, rngs=rngs)
        return self.logits(x_BTD)


def block_name(layer: int) -> str:
    """Returns the name of a layer in the tree of weights; two digits, so that names sort as layers do up to 100."""
    return f"{layer:02d}"


def empty_memory(config: ModelConfig, num_rows: int, num_places: int) -> Any:
    """Returns a Memory of zeros for every layer: a list, or stacked as scanned layers are."""
    shape = (num_rows, config.kv_heads, num_places, config.d_head)
    if config.has_scanned_layers:
        zeros = jnp.zeros((config.num_layers, *shape), config.compute_dtype)
        return Memory(zeros, jnp.copy(zeros))
    zeros = jnp.zeros(shape, config.compute_dtype)
    return [Memory(jnp.copy(zeros), jnp.copy(zeros)) for _ in range(config.num_layers)]


def _key_of_layer(dropout_key: jax.Array | None, layer: int | jax.Array) -> jax.Array | None:
    return None if dropout_key is None else jax.random.fold_in(dropout_key, layer)


def _run_block(
    graphdef: nnx.GraphDef, state: nnx.State, x_BTD: jax.Array, carried: Carried, key: jax.Array | None
) -> tuple[jax.Array, Routing | None]:
    """One layer block as a pure function of its weights, which scan and checkpoint need."""
    mask, positions_BT, source = carried
    return nnx.merge(graphdef, state)(x_BTD, mask, positions_BT, key, source=source)
