"""Normalisation over the last dimension, statistics in float32.

B batch, T position, D model width, N heads, H head size.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.config import ModelConfig
from kleiber.model.layers.product import read
from kleiber.model.layers.weight import declare


def rms_normalise(x: jax.Array, epsilon: float) -> jax.Array:
    """Returns x divided by its root mean square over the last dimension, epsilon added to the square, in x's dtype."""
    x32 = x.astype(jnp.float32)  # squares of bfloat16 lose the small entries
    scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + epsilon)
    return (x32 * scale).astype(x.dtype)


class Norm(nnx.Module):
    """RMSNorm (divides by the root mean square) or LayerNorm (also subtracts the mean), with or without a gain."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, num_stacked: int | None = None):
        self.config = config
        if config.has_norm_gain:
            self.gain = declare(config, rngs, "gain", (config.d_model,), ("embed",), num_stacked)
        if config.has_norm_gain and config.norm == "layernorm":
            self.bias = declare(config, rngs, "bias", (config.d_model,), ("embed",), num_stacked)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns x normalised over D, in x's dtype."""
        x32_BTD = x_BTD.astype(jnp.float32)
        if self.config.norm == "layernorm":
            x32_BTD = x32_BTD - jnp.mean(x32_BTD, axis=-1, keepdims=True)
        y_BTD = rms_normalise(x32_BTD, self.config.norm_epsilon)
        if self.config.has_norm_gain:
            y_BTD = y_BTD * read(self.gain, jnp.float32)
            if self.config.norm == "layernorm":
                y_BTD = y_BTD + read(self.bias, jnp.float32)
        return y_BTD.astype(x_BTD.dtype)
