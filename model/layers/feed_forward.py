"""The feed-forward, plain or gated.

B batch, T position, D model width, F feed-forward width.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kleiber.model.config import Activation, ModelConfig
from kleiber.model.layers.product import product
from kleiber.model.layers.weight import declare
from kleiber.parallel.rules import constrain


def activate(x: jax.Array, activation: Activation) -> jax.Array:
    """Returns max(x, 0)^2 (So et al. 2021, arXiv:2109.08668), x * sigmoid(x), or x * Phi(x) by its tanh formula."""
    if activation == "relu_squared":
        return jnp.square(jax.nn.relu(x))
    return jax.nn.silu(x) if activation == "silu" else jax.nn.gelu(x, approximate=True)


class FeedForward(nnx.Module):
    """activation(x up) down, or (activation(x gate) * (x up)) down when gated (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, num_stacked: int | None = None, d_ff: int | None = None):
        self.config = config
        d_model, d_ff = config.d_model, d_ff or config.feed_forward_width
        self.up = declare(config, rngs, "up", (d_model, d_ff), ("embed", "mlp"), num_stacked)
        if config.is_gated:
            self.gate = declare(config, rngs, "gate", (d_model, d_ff), ("embed", "mlp"), num_stacked)
        self.down = declare(config, rngs, "down", (d_ff, d_model), ("mlp", "embed"), num_stacked)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns what the feed-forward of one layer adds to x, before the branch multiplier."""
        up_BTF = checkpoint_name(product(self.config, x_BTD, self.up), "up")
        if self.config.is_gated:
            gate_BTF = checkpoint_name(product(self.config, x_BTD, self.gate), "gate")
            hidden_BTF = activate(gate_BTF, self.config.activation) * up_BTF
        else:
            hidden_BTF = activate(up_BTF, self.config.activation)
        hidden_BTF = constrain(hidden_BTF, ("batch", "seq", "mlp"))
        return product(self.config, checkpoint_name(hidden_BTF, "feed_forward_hidden"), self.down)
