"""Several processes, one mesh: start-up from the environment, and agreement between processes.

A launcher says who is who. Slurm, Open MPI, Kubernetes (indexed jobs) and Cloud TPU are recognised by jax.distributed;
anywhere else three variables do: KLEIBER_COORDINATOR=host:port, KLEIBER_NUM_PROCESSES and KLEIBER_PROCESS_ID.

The coordinator has no authentication: use it on a trusted network only.
"""

import os
from typing import Any

import jax
import numpy as np

VARIABLES = ("KLEIBER_COORDINATOR", "KLEIBER_NUM_PROCESSES", "KLEIBER_PROCESS_ID")
TASKS = {"SLURM_NTASKS": "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK"}
"""Number of tasks of a launcher that jax.distributed recognises, and the variable with this task's number."""


def process_in_environment() -> tuple[int, int]:
    """Returns (this process's number, number of processes) as the launcher says; (0, 1) without one.

    Raises:
      ValueError: if only some of KLEIBER_COORDINATOR, KLEIBER_NUM_PROCESSES, KLEIBER_PROCESS_ID are set, or they make
        no sense together.
    """
    given = [name for name in VARIABLES if os.environ.get(name)]
    if given and len(given) < len(VARIABLES):
        missing = sorted(set(VARIABLES) - set(given))
        raise ValueError(f"{', '.join(given)} set, but not {', '.join(missing)}: several processes need all three.")
    pairs = {VARIABLES[1]: VARIABLES[2]} if given else TASKS
    for count_name, number_name in pairs.items():
        if os.environ.get(count_name) and os.environ.get(number_name):
            count, number = (_as_int(name) for name in (count_name, number_name))
            if not 0 <= number < count:
                raise ValueError(f"{number_name}={number} of {count_name}={count}, expected 0 to {count - 1}.")
            if count > 1:
                return number, count
    return 0, 1


def _as_int(name: str) -> int:
    text = os.environ[name]
    if not text.isdigit():
        raise ValueError(f"{name} is '{text}', expected a whole number.")
    return int(text)


def start_seconds() -> int:
    """Returns how long processes wait for each other at the start: KLEIBER_START_SECONDS, or 300."""
    return int(os.environ.get("KLEIBER_START_SECONDS", "300"))


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
