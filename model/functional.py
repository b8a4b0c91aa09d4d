"""A model as pure functions of a tree of arrays, for jit, vmap, optax, checkpoints and sharding.

The tree is nested dictionaries with string keys, such as params["blocks"]["00"]["attention"]["query"].

B batch, T position, D model width, V vocabulary.
"""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kleiber.model.config import ModelConfig
from kleiber.model.families.decoder import block_name
from kleiber.model.families.table import FAMILIES
from kleiber.model.layers.experts import Routing
from kleiber.model.parametrization import BASE

Params = dict[str, Any]


@dataclass(frozen=True)
class Declaration:
    """What is known of a weight before it exists."""

    shape: tuple[int, ...]
    dtype: str
    logical_axes: tuple[str | None, ...]
    init_mean: float
    init_std: float


@functools.lru_cache(maxsize=256)
def _abstract(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The structure of a model, made without computing anything."""
    return nnx.split(nnx.eval_shape(lambda: FAMILIES[config.family].module()(config, nnx.Rngs(0))))


def declarations(config: ModelConfig) -> Params:
    """Returns the tree of weights of a shape with a Declaration in place of each array."""

    def declaration(weight: nnx.Param) -> Declaration:
        metadata = weight.get_metadata()
        return Declaration(
            tuple(weight.shape), str(weight.dtype), *(metadata[k] for k in ("logical_axes", "init_mean", "init_std"))
        )

    flat = {path: declaration(weight) for path, weight in nnx.to_flat_state(_abstract(config)[1])}
    return nnx.traversals.unflatten_mapping(flat)


def abstract_params(config: ModelConfig) -> Params:
    """Returns the tree of weights as jax.ShapeDtypeStruct, without making any array."""
    return jax.tree.map(lambda weight: jax.ShapeDtypeStruct(weight.shape, weight.dtype), declarations(config))


def logical_axes(config: ModelConfig) -> Params:
    """Returns the tree of weights with the tuple of logical axis names in place of each array."""
    return jax.tree.map(lambda weight: weight.logical_axes, declarations(config))


def init_params(config: ModelConfig, seed: int) -> Params:
    """Returns initial weights as NumPy arrays, drawn from one stream a weight named by seed and path.

    Each weight has its own stream, so adding a weight leaves the others as they were, and stacked (scanned) layers
    start with the numbers of unrolled ones. NumPy draws in milliseconds where eager jax.random first compiles a program
    for each shape. For weights too large for one host use init_params_on_device.

    Args:
      config: the shape.
      seed: non-negative; the same seed gives the same numbers on every machine.

    Returns:
      Tree of float arrays of config.param_dtype.
    """

    def draw(path: tuple, weight: Declaration) -> np.ndarray:
        names = [entry.key for entry in path if entry.key != BASE]
        if config.has_scanned_layers and "blocks" in names:
            one, place = (weight.shape[1:], weight.init_mean, weight.init_std), names.index("blocks") + 1
            layers = [[*names[:place], block_name(layer), *names[place:]] for layer in range(weight.shape[0])]
            values = np.stack([_normal(seed, "/".join(layer), *one) for layer in layers])
        else:
            values = _normal(seed, "/".join(names), weight.shape, weight.init_mean, weight.init_std)
        return values.astype(jnp.dtype(weight.dtype))

    return jax.tree_util.tree_map_with_path(draw, declarations(config))


def _normal(seed: int, name: str, shape: tuple[int, ...], mean: float, std: float) -> np.ndarray:
    """Returns float32 normal draws from the stream of a seed and a name; a constant draws nothing."""
    if not std:
        return np.full(shape, mean, np.float32)
    stream = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    return mean + np.float32(std) * np.random.default_rng([seed, stream]).standard_normal(shape, np.float32)


def init_params_on_device(config: ModelConfig, key: jax.Array) -> Params:
    """Returns initial weights of the same distributions drawn by jax.random, to be run under jit with out_shardings."""
    return nnx.to_pure_dict(nnx.state(FAMILIES[config.family].module()(config, nnx.Rngs(params=key)), nnx.Param))


def as_module(config: ModelConfig, params: Params) -> Any:
    """Returns the NNX module of a shape with these weights."""
    return nnx.merge(_abstract(config)[0], params)


def apply_hidden(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, Routing | None]:
    """Returns the hidden x_BTD that the head reads, in the compute dtype, and what the routers did (None without
    experts); a dropout key means training. Of images, int [B, H, W, C] in place of tokens, T is 1."""
    rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
    model = as_module(config, params)
    return model.hidden(tokens_BT, segment_ids_BT, is_training=dropout_key is not None, rngs=rngs)


def head(config: ModelConfig, params: Params, x_BTD: jax.Array) -> jax.Array:
    """Returns float32 logits_BTV of hidden x_BTD; call it on slices of T to keep the logits of a large V small."""
    return as_module(config, params).logits(x_BTD)


def apply(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Returns the float32 logits_BTV of the next token at each position, of params as init_params returns;
    segment_ids_BT is the int32 document of each, and without a dropout key (typed) nothing is dropped."""
    return head(config, params, apply_hidden(config, params, tokens_BT, segment_ids_BT, dropout_key)[0])
