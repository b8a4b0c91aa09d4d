"""The Fisher diagonal of the weights that a run begins with, on the training text of its start.

It is the empirical one (Kunstner et al. 2019, arXiv:1905.12558, section 2.2): the mean square of the gradient of what a
row says, of its own targets. Divided by a row's targets and times one half it is how a target's loss bends, in nats.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.run_data import open_run_data
from kleiber.train.ewc import begun_with
from kleiber.train.objective.mean import weighted_mean
from kleiber.train.objective.table import OBJECTIVES


def fisher_of_start(config: TrainConfig, params: Any) -> Any:
    """Returns F of each weight, float32 host arrays: the bend of the start's loss in nats per target.

    Args:
      config: of a run with a start and with ewc.
      params: the weights it begins with.

    Raises:
      ValueError: the text of the start is not to be had.
    """
    assert config.ewc is not None
    before = begun_with(config)
    data = open_run_data(before)
    wanted = max(1, config.ewc.num_tokens // before.model.seq_len)
    count = min(wanted, data.train.num_sequences)
    indices = np.arange(count, dtype=np.int64) * data.train.num_sequences // count
    model = replace(config.model, dropout=0.0, has_remat=False, remat_keeps="nothing")
    told = replace(before, model=model, z_loss=0.0, data=before.data)
    rows = data.train.batch(told, indices, data.newlines)
    return jax.tree.map(np.asarray, fisher_diagonal(replace(told, start=None, mesh=type(told.mesh)()), params, rows))


@partial(jax.jit, static_argnums=0)
def fisher_diagonal(config: TrainConfig, params: Any, rows: Batch) -> Any:
    """Returns the mean over rows [n, ...] of their squared gradients, each times the targets of a row."""
    objective = OBJECTIVES[config.objective]

    def loss(params: Any, row: Batch) -> jax.Array:
        batch = objective.batch(config, jax.tree.map(lambda leaf: leaf[None], row), None)
        losses, weights, _, _ = objective.losses(config, params, batch, None)
        return weighted_mean(losses, weights)

    def add(total: Any, row: Batch) -> tuple[Any, None]:
        slopes = jax.grad(loss)(params, row)
        return jax.tree.map(lambda t, g: t + jnp.square(g.astype(jnp.float32)), total, slopes), None

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    total, _ = jax.lax.scan(add, zeros, rows)
    scale = config.model.seq_len / len(jax.tree.leaves(rows)[0])
    return jax.tree.map(lambda t: t * scale, total)
