"""Mixture of experts: a router sends each token to a few of many feed-forwards.

B batch, G groups of a row, S tokens of a group, D model width, E experts, A experts a token is sent to, C capacity
(tokens an expert takes from a group), F width of one expert.

Tokens of a group compete for C places an expert; first choices go before second ones, earlier tokens before later ones,
and who comes too late skips that expert (the residual stream carries it on). What is dropped is counted. Groups lie
within a row, so the numbers depend on neither the mesh nor the microbatches.

Sources: groups and capacity, GShard (Lepikhin et al. 2020, arXiv:2006.16668); balance loss, Switch (Fedus et al. 2021,
arXiv:2101.03961), eq. 4; router z-loss, ST-MoE (Zoph et al. 2022, arXiv:2202.08906), eq. 5; shared experts, DeepSeekMoE
(Dai et al. 2024, arXiv:2401.06066).
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.layers.feed_forward import FeedForward, activate
from kleiber.model.layers.product import contraction
from kleiber.model.layers.weight import declare
from kleiber.parallel.rules import constrain


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Routing:
    """What a router did, float32 scalars, means over the batch; summed over layers by the Transformer."""

    balance_loss: jax.Array
    """E sum_e f_e p_e: 1 when tokens and probabilities are spread evenly, E / A when all choose the same experts."""
    z_loss: jax.Array
    """Mean squared log-normaliser of the router."""
    dropped: jax.Array
    """Fraction of the choices that found their expert full."""


def capacity(experts: ExpertsConfig, group_size: int) -> int:
    """Returns the tokens an expert takes from a group: its even share times the capacity factor, rounded up."""
    return math.ceil(group_size * experts.num_active * experts.capacity_factor / experts.num_experts)


class Experts(nnx.Module):
    """The feed-forward part of a layer as a mixture of experts, with shared experts that every token passes."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, num_stacked: int | None = None):
        assert config.experts is not None
        self.config, self.experts = config, config.experts
        num, d_model, d_ff = self.experts.num_experts, config.d_model, config.feed_forward_width
        axes, fan = ("experts", "embed", "mlp"), {"num_stacked": num_stacked, "fan_in": d_model}
        self.router = declare(config, rngs, "router", (d_model, num), ("embed", None), num_stacked)
        self.up = declare(config, rngs, "up", (num, d_model, d_ff), axes, **fan)
        if config.is_gated:
            self.gate = declare(config, rngs, "gate", (num, d_model, d_ff), axes, **fan)
        back = ("experts", "mlp", "embed")
        self.down = declare(config, rngs, "down", (num, d_ff, d_model), back, num_stacked, fan_in=d_ff)
        if self.experts.num_shared:
            self.shared = FeedForward(config, rngs, num_stacked, d_ff=self.experts.num_shared * d_ff)

    def __call__(self, x_BTD: jax.Array) -> tuple[jax.Array, Routing]:
        """Returns what the experts of one layer add to x, before the branch multiplier, and what the router did."""
        batch, length, d_model = x_BTD.shape
        size = self.experts.group_size or length
        if length % size:
            raise ValueError(f"experts.group_size {size} does not divide the {length} positions of a row.")
        x_BGSD = constrain(x_BTD.reshape(batch, -1, size, d_model), ("batch", "seq", None, None))
        weights_BGSA, slots_BGSA, routing = self._route(x_BGSD)
        places = self.experts.num_experts * capacity(self.experts, size)
        sent_BGPD = jax.vmap(jax.vmap(_send, (0, 0, None)), (0, 0, None))(x_BGSD, slots_BGSA, places)
        sent_BGPD = constrain(sent_BGPD, ("batch", "seq", None, None))
        sent_BGECD = sent_BGPD.reshape(*x_BGSD.shape[:2], self.experts.num_experts, -1, d_model)
        # From "each device has its own tokens" to "each device has its own experts": an all-to-all over `expert`.
        sent_BGECD = constrain(sent_BGECD, ("expert_batch", "seq", "experts", None, None))
        done_BGECD = constrain(self._compute(sent_BGECD), ("expert_batch", "seq", "experts", None, None))
        done_BGECD = constrain(done_BGECD, ("batch", "seq", None, None, None))
        done_BGPD = done_BGECD.reshape(*x_BGSD.shape[:2], places, d_model)
        y_BGSD = jax.vmap(jax.vmap(_collect))(done_BGPD, slots_BGSA, weights_BGSA)
        y_BTD = constrain(y_BGSD.reshape(x_BTD.shape), ("batch", "seq", None))
        return (y_BTD + self.shared(x_BTD) if self.experts.num_shared else y_BTD), routing

    def _route(self, x_BGSD: jax.Array) -> tuple[jax.Array, jax.Array, Routing]:
        """Returns the weight and the place of each choice [B, G, S, A]; the place past the last one is the bin."""
        num, active = self.experts.num_experts, self.experts.num_active
        # In float32: two experts whose scores bfloat16 cannot tell apart would be drawn by rounding.
        logits_BGSE = contraction("BGSD,DE->BGSE", x_BGSD.astype(jnp.float32), self.router)
        logits_BGSE = checkpoint_name(logits_BGSE, "router")
        probabilities_BGSE = jax.nn.softmax(logits_BGSE, axis=-1)
        weights_BGSA, choice_BGSA = jax.lax.top_k(probabilities_BGSE, active)
        if self.experts.has_normalised_weights:
            weights_BGSA = weights_BGSA / jnp.sum(weights_BGSA, axis=-1, keepdims=True)
        chosen_BGASE = jax.nn.one_hot(jnp.swapaxes(choice_BGSA, 2, 3), num, dtype=jnp.int32)
        queue = jnp.cumsum(chosen_BGASE.reshape(*x_BGSD.shape[:2], -1, num), axis=2).reshape(chosen_BGASE.shape)
        place_BGSA = jnp.swapaxes(jnp.sum((queue - 1) * chosen_BGASE, axis=-1), 2, 3)
        limit = capacity(self.experts, x_BGSD.shape[2])
        is_kept_BGSA = place_BGSA < limit
        slots_BGSA = jnp.where(is_kept_BGSA, choice_BGSA * limit + place_BGSA, num * limit)
        share_BGE = jnp.mean(jnp.sum(chosen_BGASE, axis=2), axis=2, dtype=jnp.float32) / active
        balance = num * jnp.mean(jnp.sum(share_BGE * jnp.mean(probabilities_BGSE, axis=2), axis=-1))
        z_loss = jnp.mean(jnp.square(jax.nn.logsumexp(logits_BGSE, axis=-1)))
        dropped = 1 - jnp.mean(is_kept_BGSA, dtype=jnp.float32)
        return jnp.where(is_kept_BGSA, weights_BGSA, 0.0), slots_BGSA, Routing(balance, z_loss, dropped)

    def _compute(self, x_BGECD: jax.Array) -> jax.Array:
        """Returns each expert's feed-forward of the tokens sent to it."""
        each = partial(contraction, "BGECD,EDF->BGECF")
        up_BGECF = checkpoint_name(each(x_BGECD, self.up), "up")
        if self.config.is_gated:
            gate_BGECF = checkpoint_name(each(x_BGECD, self.gate), "gate")
            hidden_BGECF = activate(gate_BGECF, self.config.activation) * up_BGECF
        else:
            hidden_BGECF = activate(up_BGECF, self.config.activation)
        hidden_BGECF = constrain(hidden_BGECF, ("expert_batch", "seq", "experts", None, "mlp"))
        return checkpoint_name(each(hidden_BGECF, self.down), "down")


def _send(x_SD: jax.Array, slots_SA: jax.Array, places: int) -> jax.Array:
    """Returns the token at each place of the experts, [places, D]; zeros where nobody came."""
    size, active = slots_SA.shape
    token_of_slot = jnp.full(places + 1, size).at[slots_SA.reshape(-1)].set(jnp.repeat(jnp.arange(size), active))
    return x_SD.at[token_of_slot[:-1]].get(mode="fill", fill_value=0)


def _collect(done_PD: jax.Array, slots_SA: jax.Array, weights_SA: jax.Array) -> jax.Array:
    """Returns the weighted sum of what each token's experts made of it, [S, D]."""
    results_SAD = done_PD.at[slots_SA].get(mode="fill", fill_value=0)
    return jnp.einsum("SAD,SA->SD", results_SAD, weights_SA.astype(done_PD.dtype))
