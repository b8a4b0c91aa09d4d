"""Augmentation: what is drawn anew of each image whenever it is trained on.

B image, H row, W column, C channel.
"""

import jax
import jax.numpy as jnp

from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch

SHIFTED = 8
"""An image moves by up to an eighth of its side."""


def augment(config: TrainConfig, batch: Batch, key: jax.Array | None) -> Batch:
    """Returns the batch with its images changed as config.data.augment says, each by a draw of its own place in the
    batch; without a key, or without augmentation, the batch itself."""
    if key is None or not config.data.augment:
        return batch
    images_BHWC = batch.inputs
    for name in config.data.augment:
        keys_B = jax.random.split(jax.random.fold_in(key, _OPERATIONS[name][0]), len(images_BHWC))
        images_BHWC = jax.vmap(_OPERATIONS[name][1])(images_BHWC, keys_B)
    return Batch(images_BHWC, batch.targets, batch.weights, batch.segments)


def _shift(image_HWC: jax.Array, key: jax.Array) -> jax.Array:
    most = max(1, len(image_HWC) // SHIFTED)
    row, column = jax.random.randint(key, (2,), 0, 2 * most + 1)
    padded = jnp.pad(image_HWC, ((most, most), (most, most), (0, 0)), mode="edge")
    return jax.lax.dynamic_slice(padded, (row, column, 0), image_HWC.shape)


def _flip(image_HWC: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key), image_HWC[:, ::-1], image_HWC)


_OPERATIONS = {"shift": (0, _shift), "flip": (1, _flip)}
"""Each with the number of its stream of draws."""
