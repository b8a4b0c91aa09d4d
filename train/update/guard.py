"""The guard of an update: one that is not finite, or whose loss leaps, is left out on the device and counted.

Nothing waits for the host: the decision is a select inside the compiled step, and the host reads the counts later,
with the losses. An update that is left out changes neither parameters nor optimizer state; the step and the data go
on. The host stops a run after `max_consecutive_skips` such updates in a row, when its parameters are not finite, or
when its loss is far above where it started.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kleiber.train.config import GuardConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepLog:
    """What a call of the compiled steps tells of them. A population has a leading member axis on every leaf."""

    losses: jax.Array
    """float32 [K], mean nats per token before each update; zero after the last step."""
    gradient_norms: jax.Array
    """float32 [K], global, before clipping."""
    is_skipped: jax.Array
    """bool [K], whether the update was left out."""
    param_norm: jax.Array
    """float32 scalar, global, after the last step."""
    extras: dict[str, jax.Array] = field(default_factory=dict)
    """Further columns of the metrics, float32 [K] each."""

    def with_step(self, index: jax.Array, logged: dict[str, jax.Array]) -> "StepLog":
        """Returns the log with what a step tells at row index: loss, gradient_norm, is_skipped and the extras."""
        return StepLog(
            self.losses.at[index].set(logged["loss"]),
            self.gradient_norms.at[index].set(logged["gradient_norm"]),
            self.is_skipped.at[index].set(logged["is_skipped"]),
            self.param_norm,
            {name: values.at[index].set(logged[name]) for name, values in self.extras.items()},
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossWindow:
    """The losses of the last accepted steps, a ring on the device; part of the state, so a resume goes on the same."""

    losses: jax.Array
    """float32 [spike_window]."""
    count: jax.Array
    """int32, accepted steps so far."""


def empty_window(config: GuardConfig) -> LossWindow | None:
    """Returns the window a run starts with, or None when the spike rule is off (nothing is then compiled for it)."""
    if config.spike_sigmas is None:
        return None
    return LossWindow(jnp.zeros(config.spike_window, jnp.float32), jnp.zeros((), jnp.int32))


def empty_log(size: int, extras: Sequence[str] = ()) -> StepLog:
    """Returns the log that a call of size steps fills."""
    zeros = jnp.zeros(size, jnp.float32)
    return StepLog(zeros, zeros, jnp.zeros(size, bool), jnp.zeros((), jnp.float32), {name: zeros for name in extras})


def judge(
    config: GuardConfig, window: LossWindow | None, loss: jax.Array, grads: Any
) -> tuple[jax.Array, jax.Array, LossWindow | None]:
    """Returns (whether to apply the update, the gradients' global norm, the window with this loss if applied).

    The update is applied when the loss and the norm are finite and, under the spike rule (window not None), the loss is
    at most spike_sigmas standard deviations above the mean of the last accepted losses. The rule waits for half a
    window. One gradient that is not finite makes the norm not finite."""
    norm = optax.global_norm(grads).astype(jnp.float32)
    is_sound = jnp.isfinite(loss) & jnp.isfinite(norm)
    if window is None:
        return is_sound, norm, None
    size, sigmas = config.spike_window, config.spike_sigmas or 0.0
    held = jnp.arange(size) < window.count
    number = jnp.maximum(1, jnp.minimum(window.count, size))
    mean = jnp.sum(jnp.where(held, window.losses, 0.0)) / number
    deviation = jnp.sqrt(jnp.sum(jnp.where(held, jnp.square(window.losses - mean), 0.0)) / number)
    is_spike = (window.count >= size // 2) & (loss > mean + sigmas * deviation)
    is_sound &= ~is_spike
    losses = window.losses.at[window.count % size].set(jnp.where(is_sound, loss, window.losses[window.count % size]))
    return is_sound, norm, LossWindow(losses, window.count + is_sound.astype(jnp.int32))


def choose(is_sound: jax.Array, new: Any, old: Any) -> Any:
    """Returns the tree new where the update is applied, else old. XLA fuses it into the update."""
    return jax.tree.map(lambda a, b: jnp.where(is_sound, a, b), new, old)
