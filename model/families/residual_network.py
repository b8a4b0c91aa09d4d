"""A residual network of images: convolutions, norms over groups of channels, and no state but its weights.

Stages of residual blocks, each norm, activation, filter, norm, activation, filter; from a stage to the next the side
halves and the width doubles; the mean over the last pixels gives the label. Sources: He et al. 2016 (arXiv:1603.05027)
for the order within a block, Kolesnikov et al. 2020 (arXiv:1912.11370) for norms over groups in place of a batch.

B image, H row, W column, C channels of the stream, F channels inside a block, V labels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kleiber.model.config import ModelConfig
from kleiber.model.families.decoder import block_name
from kleiber.model.image import FILTER_PLACES, ResidualShape, residual_shapes
from kleiber.model.layers.convolution import GroupNorm, neighbourhoods
from kleiber.model.layers.feed_forward import activate
from kleiber.model.layers.patches import centred
from kleiber.model.layers.product import product, scores
from kleiber.model.layers.weight import declare
from kleiber.model.parametrization import rules
from kleiber.parallel.rules import constrain


class ResidualBlock(nnx.Module):
    """x + m filter(activation(norm(filter(activation(norm(x)))))), with m the branch multiplier; where stride or width
    change, x is every stride-th pixel of activation(norm(x)) times a matrix."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, shape: ResidualShape):
        self.config, self.stride = config, shape.stride
        channels, width = shape.channels, shape.width
        self.outer_norm = GroupNorm(config, rngs, channels, "embed")
        self.up = declare(config, rngs, "up", (FILTER_PLACES * channels, width), ("embed", "mlp"))
        self.inner_norm = GroupNorm(config, rngs, width, "mlp")
        self.down = declare(config, rngs, "down", (FILTER_PLACES * width, width), ("mlp", "embed"))
        if shape.has_shortcut:
            self.shortcut = declare(config, rngs, "shortcut", (channels, width), ("embed", None))

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns the stream after this block."""
        config, stride = self.config, self.stride
        seen_BHWC = activate(self.outer_norm(x_BHWC), config.activation)
        up_BHWF = checkpoint_name(product(config, neighbourhoods(seen_BHWC, stride), self.up), "up")
        up_BHWF = constrain(up_BHWF, ("batch", None, None, "mlp"))
        hidden_BHWF = activate(self.inner_norm(up_BHWF), config.activation)
        added_BHWC = product(config, neighbourhoods(hidden_BHWF), self.down)
        added_BHWC = checkpoint_name(added_BHWC, "feed_forward_output")
        if hasattr(self, "shortcut"):
            x_BHWC = product(config, seen_BHWC[:, ::stride, ::stride], self.shortcut)
        x_BHWC = x_BHWC + rules(config)["output"].multiplier * added_BHWC
        return checkpoint_name(constrain(x_BHWC, ("batch", None, None, None)), "residual")


class ResidualNetwork(nnx.Module):
    """First filter, blocks, norm, mean, head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        assert (image := config.image) is not None, "a network of images has an image"
        first = (FILTER_PLACES * image.channels, config.d_model)
        self.pixels = declare(config, rngs, "pixels", first, (None, "embed"))
        shapes = residual_shapes(config)
        self.blocks = nnx.Dict({block_name(n): ResidualBlock(config, rngs, shape) for n, shape in enumerate(shapes)})
        self.final_norm = GroupNorm(config, rngs, shapes[-1].width, "embed")
        self.head = declare(config, rngs, "head", (shapes[-1].width, config.vocab_size), ("embed", "vocab"))

    def hidden(
        self,
        images_BHWC: jax.Array,
        segment_ids: None = None,
        *,
        is_training: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, None]:
        """Returns the mean over the pixels of the last stage, [B, 1, C], and None for the routing that it has not.
        Pixels are integers from 0 to 255."""
        x_BHWC = product(self.config, neighbourhoods(centred(images_BHWC, self.config.compute_dtype)), self.pixels)
        x_BHWC = checkpoint_name(constrain(x_BHWC, ("batch", None, None, None)), "embedded")
        for number in range(self.config.num_layers):
            x_BHWC = self.blocks[block_name(number)](x_BHWC)
        x_BHWC = activate(self.final_norm(x_BHWC), self.config.activation)
        return checkpoint_name(jnp.mean(x_BHWC, axis=(1, 2))[:, None], "final"), None

    def logits(self, x_BTC: jax.Array) -> jax.Array:
        """Returns the float32 logits [B, 1, V] of the labels."""
        logits_BTV = scores(x_BTC, self.head) * rules(self.config)["head"].multiplier
        return checkpoint_name(constrain(logits_BTV, ("batch", "seq", "vocab")), "logits")
