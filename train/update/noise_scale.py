"""The gradient noise scale: the batch at which noise and signal of a gradient are alike.

Source: McCandlish et al. 2018, arXiv:1812.06162, section 2.2 and appendix A.1. With G the gradient of the whole text
and S the trace of the covariance of the gradient of one row, B = S / |G|^2 rows. A batch far below it wastes steps, one
far above it wastes tokens. The gradients of the micro-batches of a step, and their mean, are two batch sizes at no cost
but their norms: E|g_b|^2 = |G|^2 + S / b.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kleiber.train.config import TrainConfig

NOISE, SIGNAL = "gradient_noise", "gradient_signal"
"""Columns of the step log: S of one row of the batch and |G|^2, each without bias; either may come out negative."""


def logged_names(config: TrainConfig) -> tuple[str, ...]:
    """Returns the columns that a trunk logs for it."""
    return (NOISE, SIGNAL) if config.measures_noise_scale else ()


def squared_norm(grads: Any) -> jax.Array:
    """Returns the squared global norm of gradients, float32 scalar."""
    return jnp.square(optax.global_norm(grads).astype(jnp.float32))


def noise_and_signal(of_parts: jax.Array, grads: Any, num_rows: int, num_parts: int) -> dict[str, jax.Array]:
    """Returns S and |G|^2 of one step by their columns (equations of appendix A.1).

    Args:
      of_parts: mean squared norm of the gradients of the parts of the batch.
      grads: of the whole batch, their mean.
      num_rows: of the batch.
      num_parts: of equal size, two or more.
    """
    whole = squared_norm(grads)
    noise = (of_parts - whole) * num_rows / (num_parts - 1)
    return {NOISE: noise, SIGNAL: whole - noise / num_rows}


def noise_scale(rows: Sequence[Mapping[str, Any]], seq_len: int) -> tuple[float, float] | None:
    """Returns the noise scale in tokens and its standard error, from the rows of a step log; None where they do not
    tell: fewer than eight rows with the columns, or a gradient that cannot be told from noise.

    Both columns are averaged before they are divided; the error is that of leaving out one block of rows of eight after
    the other, so that neighbouring rows may be alike.
    """
    columns = np.array([(row[NOISE], row[SIGNAL]) for row in rows if row.get(NOISE) is not None], np.float64)
    if len(columns) < 8 or not (np.isfinite(columns).all() and (columns.mean(0) > 0).all()):
        return None
    blocks = np.array_split(columns, 8)
    without = [np.concatenate([*blocks[:i], *blocks[i + 1 :]]).mean(0) for i in range(8)]
    ratios = np.array([noise / signal for noise, signal in without])
    noise, signal = columns.mean(0)
    error = float(np.sqrt(7 / 8 * np.square(ratios - ratios.mean()).sum()))
    return float(noise / signal) * seq_len, error * seq_len
