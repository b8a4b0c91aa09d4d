"""The peer: the same Transformer in plain JAX and optax, as a first version is usually written.

Scanned layers, one dense causal mask, one jitted step per call: what kleiber's layout of products, blocked attention,
unrolled layers and many steps a call are measured against.

B batch, T position, D model width, N heads, H head size.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kleiber.model.config import ModelConfig
from kleiber.model.parametrization import learning_rate_multipliers, rules


def _rms(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def _rotate(x_BTNH: jax.Array) -> jax.Array:
    length, half = x_BTNH.shape[1], x_BTNH.shape[3] // 2
    angle = jnp.arange(length)[:, None] * 10_000.0 ** -(jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    first, second = x_BTNH[..., :half], x_BTNH[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class PlainTrainer:
    """One model and its AdamW: `step` trains on a batch."""

    def __init__(self, config: ModelConfig, params: Any, learning_rate: float):
        blocks = [params["blocks"][name] for name in sorted(params["blocks"])]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
        self.params = {"input": jax.tree.map(jnp.asarray, params["input"]), "blocks": stacked}
        rate = learning_rate * learning_rate_multipliers(config, params)["input"]["embedding"]
        clip = optax.clip_by_global_norm(1.0)
        self.optimizer = optax.chain(clip, optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=0.1))
        self.state = self.optimizer.init(self.params)
        self.config = config
        self._step = jax.jit(self._one_step, donate_argnums=(0, 1))

    def _loss(self, params: Any, tokens_BT1: jax.Array) -> jax.Array:
        config, table = self.config, rules(self.config)
        tokens_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:]
        length = tokens_BT.shape[1]
        embedding = params["input"]["embedding"]
        x_BTD = embedding[tokens_BT] * table["embedding"].multiplier
        if config.has_previous_token_mix:
            x_BTD = x_BTD + params["input"]["mix"] * jnp.pad(x_BTD[:, :-1], ((0, 0), (1, 0), (0, 0)))
        mask = jnp.tril(jnp.ones((length, length), bool))

        def block(x_BTD: jax.Array, weights: Any) -> tuple[jax.Array, None]:
            attention, feed_forward = weights["attention"], weights["feed_forward"]
            heads = (*x_BTD.shape[:2], config.num_heads, config.d_head)
            y_BTD = _rms(x_BTD)
            query, key, value = ((y_BTD @ attention[name]).reshape(heads) for name in ("query", "key", "value"))
            scores = jnp.einsum("btnh,bsnh->bnts", _rotate(query), _rotate(key)) * config.d_head**-0.5
            weights_BNTS = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
            mixed = jnp.einsum("bnts,bsnh->btnh", weights_BNTS, value).reshape(x_BTD.shape)
            x_BTD = x_BTD + table["output"].multiplier * (mixed @ attention["output"])
            hidden = jnp.square(jax.nn.relu(_rms(x_BTD) @ feed_forward["up"]))
            return x_BTD + table["output"].multiplier * (hidden @ feed_forward["down"]), None

        x_BTD, _ = jax.lax.scan(block, x_BTD, params["blocks"])
        logits = _rms(x_BTD) @ embedding.T
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets_BT).mean()

    def _one_step(self, params: Any, state: Any, tokens: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, grads = jax.value_and_grad(self._loss)(params, tokens)
        updates, state = self.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def step(self, tokens_BT1: np.ndarray) -> float:
        """Trains on one batch; returns the loss before the update."""
        self.params, self.state, loss = self._step(self.params, self.state, tokens_BT1.astype(np.int32))
        return float(loss)
