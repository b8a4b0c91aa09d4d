"""A Transformer of images: patches pass the blocks of an encoder, and the mean of what comes out gives the label.

Source: Dosovitskiy et al. 2021 (arXiv:2010.11929), with the mean in place of a class token as in Beyer et al. 2022
(arXiv:2205.01580).

B image, P patch, D model width, V labels.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from kleiber.model.families.decoder import Transformer
from kleiber.model.layers.experts import Routing
from kleiber.model.layers.patches import Patches, places


class VisionTransformer(Transformer):
    """Transformer whose input is patches; its logits are of the labels of a whole image."""

    encoder = Patches

    def hidden(
        self,
        images_BHWC: jax.Array,
        segment_ids: jax.Array | None = None,
        positions: jax.Array | None = None,
        *,
        is_training: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, Routing | None]:
        """Returns the mean over the patches of what the blocks make of them, [B, 1, D], and the routing of the experts,
        None without. Pixels are integers from 0 to 255; images have no segments, and positions of their own."""
        assert self.config.image is not None
        grid_BP2 = places(len(images_BHWC), self.config.image.num_patches)
        x_BPD, routing = super().hidden(images_BHWC, None, grid_BP2, is_training=is_training, rngs=rngs)
        return jnp.mean(x_BPD, axis=1, keepdims=True), routing
