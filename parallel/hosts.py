"""Several processes, one mesh: start-up as the environment says, and agreement between them.

The coordinator has no authentication: use it on a trusted network only.
"""

import os
from typing import Any

import jax
import numpy as np

from kleiber.parallel.environment import process_in_environment, start_seconds


def connect() -> None:
    """Joins the processes that the environment names into one; does nothing for a single process.

    Raises:
      ValueError: as process_in_environment.
      RuntimeError: from jax, when the coordinator or a process does not come within the time limit.
    """
    number, count = process_in_environment()
    if count == 1:
        return
    limits: dict[str, Any] = {
        "heartbeat_timeout_seconds": int(os.environ.get("KLEIBER_HEARTBEAT_SECONDS", "100")),
        "initialization_timeout": start_seconds(),
    }
    # Gloo pairs collectives by the order in which they are started; on CPU only waiting for each keeps that order.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if coordinator := os.environ.get("KLEIBER_COORDINATOR"):
        jax.distributed.initialize(coordinator, count, number, **limits)
    else:
        jax.distributed.initialize(**limits)


def disconnect() -> None:
    """Leaves together with the others, so that nobody takes the first to go for a failure."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def is_lead() -> bool:
    """Returns whether this is the process that writes files and speaks to the user."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Returns whether the flag is true in any process; all processes must ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def from_lead(number: int) -> int:
    """Returns what the first process gives; all processes must ask."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.array(number, np.int32)))


def meet(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
