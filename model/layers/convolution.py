"""Convolution as a product, and the norm of what it gives.

B image, H row, W column, C channels, G groups of channels, K places that a filter looks at.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.config import ModelConfig
from kleiber.model.image import FILTER_SIDE
from kleiber.model.layers.product import read
from kleiber.model.layers.weight import declare


def neighbourhoods(x_BHWC: jax.Array, stride: int = 1) -> jax.Array:
    """Returns [B, H / stride, W / stride, K C], what a filter sees around every stride-th pixel, row by row, with zeros
    beyond the edge.

    A convolution is then one matrix product: XLA's CPU code is nine times as fast at that, forward and backward, as at
    its own convolution, and splits it over devices as it does all others.
    """
    _, height, width, _ = x_BHWC.shape
    edge = FILTER_SIDE // 2
    padded = jnp.pad(x_BHWC, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    places = [(row, column) for row in range(FILTER_SIDE) for column in range(FILTER_SIDE)]
    seen = [padded[:, row : row + height : stride, column : column + width : stride] for row, column in places]
    return jnp.concatenate(seen, axis=-1)


class GroupNorm(nnx.Module):
    """Normalises the channels of an image in groups, each over all its pixels: in training and afterwards alike, and
    whatever else is in the batch. As config.norm says, rmsnorm divides by the root mean square, layernorm also
    subtracts the mean. Source: Wu and He 2018 (arXiv:1803.08494)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, channels: int, axis: str):
        self.config = config
        if config.has_norm_gain:
            self.gain = declare(config, rngs, "gain", (channels,), (axis,))
        if config.has_norm_gain and config.norm == "layernorm":
            self.bias = declare(config, rngs, "bias", (channels,), (axis,))

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns x normalised, in x's dtype; statistics are computed in float32."""
        x_BHWGC = x_BHWC.astype(jnp.float32).reshape(*x_BHWC.shape[:3], self.config.num_heads, -1)
        if self.config.norm == "layernorm":
            x_BHWGC = x_BHWGC - jnp.mean(x_BHWGC, axis=(1, 2, 4), keepdims=True)
        scale_BG = jax.lax.rsqrt(
            jnp.mean(jnp.square(x_BHWGC), axis=(1, 2, 4), keepdims=True) + self.config.norm_epsilon
        )
        y_BHWC = (x_BHWGC * scale_BG).reshape(x_BHWC.shape)
        if self.config.has_norm_gain:
            y_BHWC = y_BHWC * read(self.gain, jnp.float32)
            if self.config.norm == "layernorm":
                y_BHWC = y_BHWC + read(self.bias, jnp.float32)
        return y_BHWC.astype(x_BHWC.dtype)
