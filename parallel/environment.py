"""What surrounds this process: its launcher, its cores, and accelerators. Needs no jax, so drivers start fast.

Slurm, Open MPI, Kubernetes (indexed jobs) and Cloud TPU are recognised by jax.distributed; anywhere else three
variables do: KLEIBER_COORDINATOR=host:port, KLEIBER_NUM_PROCESSES and KLEIBER_PROCESS_ID.
"""

import os
from pathlib import Path

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


def has_accelerator() -> bool:
    """Returns whether this machine shows a GPU or a TPU, without asking JAX, which would take hold of it."""
    return any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd", "/dev/accel0", "/dev/vfio/0"))


def runs_on_cpu() -> bool:
    """Returns whether JAX will have CPU devices alone: no accelerator shows, or JAX_PLATFORMS=cpu leaves it out."""
    return not has_accelerator() or os.environ.get("JAX_PLATFORMS") == "cpu"


def num_cores() -> int:
    """Returns the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_int(name: str) -> int:
    text = os.environ[name]
    if not text.isdigit():
        raise ValueError(f"{name} is '{text}', expected a whole number.")
    return int(text)


def start_seconds() -> int:
    """Returns how long processes wait for each other at the start: KLEIBER_START_SECONDS, or 300."""
    return int(os.environ.get("KLEIBER_START_SECONDS", "300"))
