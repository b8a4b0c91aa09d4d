"""What the weights of a run make of images: the chances of every label.

n images, H rows, W columns, C channels, K labels.
"""

from functools import partial
from typing import Any

import jax
import numpy as np

from kleiber.model.config import ModelConfig
from kleiber.model.functional import apply
from kleiber.train.config import TrainConfig


@partial(jax.jit, static_argnums=0)
def _logits(model: ModelConfig, params: Any, images: jax.Array) -> jax.Array:
    return apply(model, params, images.astype("int32"))[:, 0]


def label_losses(config: TrainConfig, params: Any, images: np.ndarray) -> np.ndarray:
    """Returns what each label of each image would cost, float64 [n, K] in nats: minus the logarithm of its chance.

    Args:
      config: of a run on images.
      params: its weights.
      images: uint8 [n, H, W, C].
    """
    size, found = config.evaluation.batch_size, []
    for start in range(0, len(images), size):
        index = np.minimum(np.arange(start, start + size), len(images) - 1)  # batches of one size compile once
        logits = np.asarray(_logits(config.model, params, images[index]), np.float64)
        found.append(np.logaddexp.reduce(logits, axis=1, keepdims=True) - logits)
    return np.concatenate(found)[: len(images)]
