"""Weights of few bits: a scale for each output, and whole multiples of it, or 8-bit floats times it.

The scale is the largest absolute weight over 2^(b-1) - 1/2, so that none is off by more than half a step (the bound of
github.com/google/qwix), and a hair more: the largest then surely falls to 2^(b-1) - 1, where a tie would be settled by
the last digit of a program. An output without any weight but zero has scale 1.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.model.parametrization import ROLE_OF_WEIGHT

SHARES = tuple(1.0 - 0.05 * step for step in range(13))
"""Of the largest weight, from which a clipped scale is chosen."""
LARGEST_FLOAT8 = 448.0
HAIR = 1.0 + 2.0**-18
TABLES = ("embedding", "positions", "head")
"""Roles of weights that are looked up, or that give the logits."""


@dataclass(frozen=True)
class Rounding:
    """How one weight is stored."""

    bits: int
    axis: int = -2
    """Of the inputs: those of one output, or of one group of them, share a scale."""
    group_size: int | None = None
    is_float: bool = False
    is_clipped: bool = False


def rounding_of(config: ModelConfig, name: str) -> Rounding | None:
    """Returns how the weight of a name (a key of ROLE_OF_WEIGHT) is rounded where it is read, None where it is not: it
    stays as it is, or was rounded as a whole (gptq)."""
    is_table = ROLE_OF_WEIGHT[name] in TABLES
    return stored_as(config, name) if is_table or config.compression.rounding == "nearest" else None


def stored_as(config: ModelConfig, name: str) -> Rounding | None:
    """Returns how the weight of a name (a key of ROLE_OF_WEIGHT) is stored, None where it stays as it is."""
    compression, role = config.compression, ROLE_OF_WEIGHT[name]
    is_table = role in TABLES
    if not (is_table or role in ("query", "hidden", "output")):
        return None
    bits = compression.weight_bits
    if is_table and compression.table_bits is not None:
        bits = compression.table_bits
    if bits == 32:
        return None
    group = None if is_table else compression.group_size
    axis = -1 if role in ("embedding", "positions") else -2
    return Rounding(bits, axis, group, compression.number_format == "float8", compression.has_clipped_scales)


def _grouped(weight: jax.Array, rounding: Rounding) -> jax.Array:
    """Returns float32 [..., groups, inputs of a group, outputs] (of a table [..., entries, 1, inputs])."""
    weight = weight.astype(jnp.float32)
    if rounding.axis == -1:
        weight = jnp.swapaxes(weight, -1, -2)
    *front, inputs, outputs = weight.shape
    return weight.reshape(*front, inputs // (rounding.group_size or inputs), -1, outputs)


def quantise(weight: jax.Array, rounding: Rounding) -> tuple[jax.Array, jax.Array]:
    """Returns (codes, scales) of a weight [..., D, F], or of a table [..., F, D].

    Args:
      weight: of any float dtype.
      rounding: how.

    Returns:
      Codes, float32 [..., groups, D / groups, F]: whole numbers, or values of float8_e4m3. Scales, float32
      [..., groups, 1, F]. Their product is the rounded weight.
    """
    scales = scales_of(weight, rounding)
    return nearest(_grouped(weight, rounding), scales, rounding), scales


def nearest(values: jax.Array, scales: jax.Array, rounding: Rounding) -> jax.Array:
    """Returns the codes, float32, whose products with scales are nearest to values; what broadcasts against them."""
    if rounding.is_float:
        clipped = jnp.clip(values / scales, -LARGEST_FLOAT8, LARGEST_FLOAT8)
        return clipped.astype(jnp.float8_e4m3fn).astype(jnp.float32)
    low = 2 ** (rounding.bits - 1)
    return jnp.clip(jnp.round(values / scales), 1 - low, low - 1)


def scales_of(weight: jax.Array, rounding: Rounding) -> jax.Array:
    """Returns the scales of a weight, float32 [..., groups, 1, F], as quantise has them."""
    values = _grouped(weight, rounding)
    largest = jnp.max(jnp.abs(values), axis=-2, keepdims=True)
    bound = LARGEST_FLOAT8 if rounding.is_float else (2 ** (rounding.bits - 1) - 0.5) / HAIR
    scales = jnp.where(largest > 0, largest / bound, 1.0)
    if rounding.is_clipped:
        shares = jnp.asarray(SHARES)

        def error(share: jax.Array) -> jax.Array:
            rounded = nearest(values, share * scales, rounding) * share * scales
            return jnp.sum(jnp.square(rounded - values), -2, keepdims=True)

        scales = shares[jnp.argmin(jax.lax.map(error, shares), axis=0)] * scales
    return scales


def restore(codes: jax.Array, scales: jax.Array, rounding: Rounding) -> jax.Array:
    """Returns the float32 weight of quantise's codes and scales, in the weight's own order of axes."""
    values = codes * scales
    values = values.reshape(*values.shape[:-3], -1, values.shape[-1])
    return jnp.swapaxes(values, -1, -2) if rounding.axis == -1 else values


def rounded(weight: jax.Array, rounding: Rounding | None) -> jax.Array:
    """Returns a weight rounded, in its dtype; a gradient passes as if it were not (straight through; Bengio et al.
    2013, arXiv:1308.3432)."""
    if rounding is None:
        return weight
    value = restore(*quantise(jax.lax.stop_gradient(weight), rounding), rounding).astype(weight.dtype)
    return (weight - jax.lax.stop_gradient(weight)) + value  # zero, with the gradient: the sum is value, bit for bit


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Returns whole codes of 2 to 8 bits as uint8 [ceil(codes * bits / 8)], without a gap between them."""
    offset = (codes.reshape(-1).astype(np.int64) + 2 ** (bits - 1)).astype(np.uint8)
    return np.packbits(np.unpackbits(offset[:, None], axis=1)[:, 8 - bits :])


def unpack(packed: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the int8 codes of a shape that pack was given."""
    count = int(np.prod(shape))
    digits = np.unpackbits(packed)[: count * bits].reshape(count, bits)
    padded = np.concatenate([np.zeros((count, 8 - bits), np.uint8), digits], axis=1)
    return (np.packbits(padded).astype(np.int16) - 2 ** (bits - 1)).astype(np.int8).reshape(shape)
