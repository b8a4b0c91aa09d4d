"""From images to the residual stream of a Transformer: a patch is a token.

B image, H row, W column, C channels, P patches, N numbers of a patch, D model width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kleiber.model.config import ModelConfig
from kleiber.model.layers.product import look_up, product
from kleiber.model.layers.weight import declare
from kleiber.model.parametrization import rules
from kleiber.parallel.rules import constrain

BRIGHTEST = 255
"""The largest number of a pixel."""


def centred(images_BHWC: jax.Array, dtype: str) -> jax.Array:
    """Returns the numbers of images, 0 to BRIGHTEST, from -1 to 1."""
    return (images_BHWC.astype(jnp.float32) * (2 / BRIGHTEST) - 1).astype(dtype)


def cut(images_BHWC: jax.Array, patch_size: int) -> jax.Array:
    """Returns images in patches [B, P, N], row by row, each patch row by row."""
    batch, height, width, channels = images_BHWC.shape
    rows, columns = height // patch_size, width // patch_size
    x = images_BHWC.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return jnp.swapaxes(x, 2, 3).reshape(batch, rows * columns, -1)


def places(num_images: int, num_patches: int) -> jax.Array:
    """Returns int32 [B, P, 2], the row and the column of each patch of square images."""
    side = round(num_patches**0.5)
    places_P2 = np.stack([np.arange(num_patches) // side, np.arange(num_patches) % side], axis=1)
    return jnp.broadcast_to(jnp.asarray(places_P2, jnp.int32), (num_images, num_patches, 2))


class Patches(nnx.Module):
    """A matrix from the numbers of a patch to its vector, with learned positions where the config has them."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        assert (image := config.image) is not None, "a model of patches has an image"
        self.pixels = declare(config, rngs, "pixels", (image.patch_pixels, config.d_model), (None, "embed"))
        if config.positions == "learned":
            self.positions = declare(config, rngs, "positions", (image.num_patches, config.d_model), (None, "embed"))

    def __call__(self, images_BHWC: jax.Array, segment_ids: None = None, positions: jax.Array | None = None):
        """Returns x_BPD in the compute dtype, of integer pixels from 0 to BRIGHTEST. The further arguments are those of
        Embedding, and say nothing here."""
        assert (image := self.config.image) is not None
        dtype = self.config.compute_dtype
        x_BPD = product(self.config, cut(centred(images_BHWC, dtype), image.patch_size), self.pixels)
        if self.config.positions == "learned":
            scale = rules(self.config)["positions"].multiplier
            x_BPD = x_BPD + scale * look_up(self.positions, slice(image.num_patches), dtype)
        return constrain(x_BPD, ("batch", "seq", None))
