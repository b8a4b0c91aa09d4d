"""Learning from a teacher: its probabilities of each target stand beside what the text says, or in its place.

Source: Hinton et al. 2015 (arXiv:1503.02531): weight * temperature^2 * KL(teacher || student) at that temperature, and
(1 - weight) of the cross entropy.

B batch, T position, V vocabulary.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from kleiber.model.config import ModelConfig
from kleiber.model.functional import apply
from kleiber.train.data.batch import Batch


def taught(shape: ModelConfig | None, batch: Batch, teacher: Any) -> Batch:
    """Returns the batch with what the teacher says of each target; itself where there is no teacher.

    Args:
      shape: of the teacher, or None.
      batch: as its objective trains on it.
      teacher: its weights.
    """
    if shape is None:
        return batch
    batch = batch.with_targets()
    logits = apply(shape, teacher, batch.inputs.astype(jnp.int32), batch.segments)
    return replace(batch, teacher_logits=logits)


def divergence(teacher_logits: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
    """Returns KL(teacher || student) of each target at a temperature, float32 [B, T] in nats, from logits [B, T, V]."""
    told = jax.nn.log_softmax(teacher_logits / temperature, axis=-1)
    said = jax.nn.log_softmax(logits / temperature, axis=-1)
    return jnp.sum(jnp.exp(told) * (told - said), axis=-1)
