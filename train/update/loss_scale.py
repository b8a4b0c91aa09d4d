"""Dynamic loss scaling for float16, whose smallest normal number is 6e-5: gradients are computed of scale * loss.

An update that overflows is left out by the guard and halves the scale; 2,000 sound updates in a row double it.

Source: Micikevicius et al. 2017 (arXiv:1710.03740), section 3.2.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

FIRST, GROW_AFTER = 2.0**15, 2_000
LOWEST, HIGHEST = 1.0, 2.0**24


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossScale:
    """The factor on the loss, and how long it has held."""

    scale: jax.Array
    """float32, a power of two, so that scaling rounds nothing."""
    num_sound: jax.Array
    """int32, sound updates since the scale last changed."""


def first_scale() -> LossScale:
    """Returns the scale a run starts with."""
    return LossScale(jnp.float32(FIRST), jnp.zeros((), jnp.int32))


def next_scale(loss_scale: LossScale, is_sound: jax.Array) -> LossScale:
    """Returns the scale of the next step; is_sound says whether this step's gradients were finite."""
    num_sound = jnp.where(is_sound, loss_scale.num_sound + 1, 0)
    grows = num_sound >= GROW_AFTER
    scale = jnp.where(is_sound, jnp.where(grows, 2 * loss_scale.scale, loss_scale.scale), loss_scale.scale / 2)
    return LossScale(jnp.clip(scale, LOWEST, HIGHEST), jnp.where(grows, 0, num_sound))
