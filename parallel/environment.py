"""What surrounds this process: its launcher, its cores, and accelerators. Needs no jax, so drivers start fast.

Recognised are steps of Slurm, Open MPI, and Cloud TPU where TPU_WORKER_HOSTNAMES and TPU_WORKER_ID are set (as on GKE).
Pods of an indexed job of Kubernetes know their number, and must be told KLEIBER_NUM_PROCESSES and KLEIBER_COORDINATOR.
Anywhere else three variables do: KLEIBER_COORDINATOR=host:port, KLEIBER_NUM_PROCESSES and KLEIBER_PROCESS_ID.
KLEIBER_NUM_PROCESSES=1 makes a process work alone, whatever started it.
"""

import math
import os
import re
from pathlib import Path

COORDINATOR, NUM_PROCESSES, PROCESS_ID = "KLEIBER_COORDINATOR", "KLEIBER_NUM_PROCESSES", "KLEIBER_PROCESS_ID"
POD = "JOB_COMPLETION_INDEX"
TPU_HOSTS, TPU_NUMBER = "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"
TPU_PORT = 8476
"""That jax, too, takes on the first host of a TPU."""
STEPS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),  # before Slurm, whose batch script may have started mpirun
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
"""Number of processes that a launcher started, and the variable with this one's number."""
NUMERIC = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
"""Variables besides JAX's own that change what a program computes."""
CIRCUMSTANCE = re.compile(
    "CACHE|_DIR$|TRACEBACK|LOG|DUMP|ADDRESS|VISIBLE|TIMEOUT|PPRINT|PROXY|PROFIL|PLATFORM|COORDINATOR|PROCESS|HOST|DEVICES"
)
"""Parts of the names of JAX's variables that change no number; devices are counted where they are used."""
ALONE = f"or set {NUM_PROCESSES}=1 to work alone."


def process_in_environment() -> tuple[int, int]:
    """Returns (this process's number, number of processes) as the launcher says; (0, 1) without one. Raises ValueError
    if a start is half set, or contradicts itself; says what to set."""
    if os.environ.get(NUM_PROCESSES) == "1":
        return 0, 1
    given = [name for name in (COORDINATOR, NUM_PROCESSES, PROCESS_ID) if os.environ.get(name)]
    if given:
        number = PROCESS_ID if os.environ.get(PROCESS_ID) else POD
        missing = [name for name in (COORDINATOR, NUM_PROCESSES, PROCESS_ID) if name not in given]
        if missing and not (missing == [PROCESS_ID] and os.environ.get(POD)):
            raise ValueError(f"{', '.join(given)} set, but not {', '.join(missing)}: several processes need all three.")
        return _pair(NUM_PROCESSES, number)
    if len(hosts := _tpu_hosts()) > 1:
        return _tpu_pair(len(hosts))
    for count_name, number_name in STEPS:
        if os.environ.get(count_name):
            return _pair(count_name, number_name)
    if os.environ.get("SLURM_NTASKS", "1") != "1":
        if os.environ.get("SLURM_PROCID", "0") == "0":  # so it is in a batch script, of which there is one
            raise ValueError(
                f"SLURM_NTASKS={os.environ['SLURM_NTASKS']}, but this is no step of that many tasks: start it with "
                f"srun, {ALONE}"
            )
        return _pair("SLURM_NTASKS", "SLURM_PROCID")
    if os.environ.get(POD):
        raise ValueError(
            f"{POD}={os.environ[POD]} says that this is a pod of an indexed job, but not of how many: set "
            f"{NUM_PROCESSES} to the job's completions and {COORDINATOR} to POD-0.SERVICE:PORT (the first pod, by the "
            f"job's headless service), {ALONE}"
        )
    return 0, 1


def coordinator_in_environment() -> str | None:
    """Returns host:port where the processes meet; None where jax finds it by itself (Slurm, Open MPI)."""
    if given := os.environ.get(COORDINATOR):
        return given
    hosts = _tpu_hosts()
    first = os.environ.get("MEGASCALE_COORDINATOR_ADDRESS") or (hosts[0] if len(hosts) > 1 else "")
    return f"{first.partition(':')[0]}:{TPU_PORT}" if first else None


def _tpu_hosts() -> list[str]:
    return [host.strip() for host in os.environ.get(TPU_HOSTS, "").split(",") if host.strip()]


def _tpu_pair(num_hosts: int) -> tuple[int, int]:
    """Returns this process's number and their number, over all slices."""
    if not os.environ.get(TPU_NUMBER):
        raise ValueError(f"{TPU_HOSTS} names {num_hosts} hosts, but {TPU_NUMBER} is not set: set both, {ALONE}")
    num_slices = _as_int("MEGASCALE_NUM_SLICES") if os.environ.get("MEGASCALE_NUM_SLICES") else 1
    first = num_hosts * _as_int("MEGASCALE_SLICE_ID") if num_slices > 1 else 0
    return _checked(first + _as_int(TPU_NUMBER), num_hosts * num_slices, f"{TPU_NUMBER} of {TPU_HOSTS}")


def _pair(count_name: str, number_name: str) -> tuple[int, int]:
    if not os.environ.get(number_name):
        raise ValueError(f"{count_name} is set, but not {number_name}: several processes need both, {ALONE}")
    number, count = _as_int(number_name), _as_int(count_name)
    return _checked(number, count, f"{number_name}={number} of {count_name}={count}")


def _checked(number: int, count: int, what: str) -> tuple[int, int]:
    if not 0 <= number < count:
        raise ValueError(f"{what}: process {number}, expected 0 to {count - 1}.")
    return number, count


def has_accelerator() -> bool:
    """Returns whether this machine shows a GPU or a TPU, without asking JAX, which would take hold of it."""
    return any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd", "/dev/accel0", "/dev/vfio/0"))


def runs_on_cpu() -> bool:
    """Returns whether JAX will have CPU devices alone: no accelerator shows, or JAX_PLATFORMS=cpu leaves it out."""
    return not has_accelerator() or os.environ.get("JAX_PLATFORMS") == "cpu"


def numeric_settings() -> dict[str, str]:
    """Returns the variables of the environment that change what JAX computes, such as JAX_ENABLE_X64, by name."""
    found = {name: value for name, value in os.environ.items() if name.startswith("JAX_") or name in NUMERIC}
    if flags := found.get("XLA_FLAGS"):
        found["XLA_FLAGS"] = " ".join(sorted(flag for flag in flags.split() if not re.search("dump|_count", flag)))
    return {name: value for name, value in sorted(found.items()) if value and not CIRCUMSTANCE.search(name)}


def num_cores() -> int:
    """Returns the cores this process may use; of a node of Slurm, those that its job has."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return min(here, int(given)) if given.isdecimal() and given != "0" else here


def _as_int(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise ValueError(f"{name} is '{text}', expected a whole number.")
    return int(text)


def seconds_in_environment(name: str, default: float) -> float:
    """Returns the seconds that a variable says, or the default. Raises ValueError if it is no number of at least one
    second."""
    text = os.environ.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds < math.inf:
        raise ValueError(f"{name} is '{text}', expected a number of seconds, at least 1.")
    return seconds


def start_seconds() -> float:
    """Returns how long processes wait for each other at the start: KLEIBER_START_SECONDS, or 300."""
    return seconds_in_environment("KLEIBER_START_SECONDS", 300)
