"""Several processes, one mesh: start-up as the environment says, and agreement between them.

The coordinator has no authentication: use it on a trusted network only.
"""

import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from kleiber.parallel.environment import (
    coordinator_in_environment,
    process_in_environment,
    seconds_in_environment,
    start_seconds,
)

DAY_MILLISECONDS = 86_400_000
"""How long `gather` waits for another process that is alive: it may have a corpus to prepare."""


class PeerMissing(RuntimeError):
    """A process of the run did not come in time."""


def connect(is_here: Callable[[int], bool] | None = None) -> None:
    """Joins the processes that the environment names into one; does nothing for a single process.

    Args:
      is_here: says of a process, by its number, whether it shows any sign of life, to name those that do not.

    Raises:
      ValueError: as process_in_environment, or nobody says where to meet.
      PeerMissing: a process did not come within `start_seconds`. This one must end now: jax goes on waiting.
    """
    number, count = process_in_environment()
    if count == 1:
        return
    address, limit = coordinator_in_environment(), start_seconds()
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": round(seconds_in_environment("KLEIBER_HEARTBEAT_SECONDS", 100)),
        # jax aborts the process at this limit, without a word that helps: the wait below is over before.
        "initialization_timeout": round(limit) + 60,
        "coordinator_bind_address": bind_address(address) if address and number == 0 else None,
    }
    # Gloo pairs collectives by the order in which they are started; on CPU only waiting for each keeps that order.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if "SLURM_STEP_NUM_TASKS" in os.environ:  # some sites leave out the variable by which jax knows Slurm
        os.environ.setdefault("SLURM_NTASKS", str(count))
    problems: list[Exception] = []

    def join() -> None:
        try:
            jax.distributed.initialize(address, count, number, **options)
        except Exception as problem:
            problems.append(problem)

    thread = threading.Thread(target=join, name="kleiber-connect", daemon=True)
    thread.start()
    thread.join(limit)
    if thread.is_alive():
        missing = [other for other in range(count) if other != number and is_here and not is_here(other)]
        raise PeerMissing(_missing(missing, count, limit, address))
    if problems and "coordinator_address" in str(problems[0]):
        raise ValueError(
            f"process {number} of {count} is not told where to meet the others: set KLEIBER_COORDINATOR=host:port "
            "(of the first), KLEIBER_NUM_PROCESSES and KLEIBER_PROCESS_ID."
        )
    if problems:
        raise problems[0]


def _missing(missing: list[int], count: int, limit: float, address: str | None) -> str:
    within = f"within {limit:g} s (KLEIBER_START_SECONDS)"
    if missing:
        names = f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))} of {count}"
        return f"{names} did not come {within}: start the same line on every host, with --out on a folder they share"
    return f"{count} processes did not all reach {address or 'the coordinator'} {within}: is that port open to them?"


def bind_address(address: str) -> str | None:
    """Returns the address:port on which the coordinator should listen; None for all addresses of this machine.

    Those are needed where the name does not lead to an address that the other processes use: one of a gateway or of a
    service, or a host's own name that its hosts file gives the address of the machine itself.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return None
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(place)
    except OSError:
        return None
    found = str(place[0])
    if ipaddress.ip_address(found.partition("%")[0]).is_loopback and host not in (found, "localhost"):
        return None
    return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"


def disconnect() -> None:
    """Leaves together with the others, so that nobody takes the first to go for a failure."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def gather(name: str, text: str) -> list[str]:
    """Returns the text that each process gives, by number; all processes must ask, once for each name.

    It goes by way of the coordinator, not through devices: processes that differ in jax can still tell each other so.
    """
    from jax._src import distributed  # its key-value store has no public name

    number, count = process_in_environment()
    client = distributed.global_state.client
    assert client is not None
    client.key_value_set(f"kleiber/{name}/{number}", text)
    texts = [client.blocking_key_value_get(f"kleiber/{name}/{other}", DAY_MILLISECONDS) for other in range(count)]
    client.wait_at_barrier(f"kleiber/{name}", DAY_MILLISECONDS)  # nobody leaves before all have read
    return texts


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
