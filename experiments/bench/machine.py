"""Section machine: what the figures depend on. Names the kind of machine, never the machine."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kleiber.experiments.bench.setting import HOUSE
from kleiber.parallel.environment import num_cores

PACKAGES = (
    "kleiber", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy", "torch",
    "jax-cuda12-plugin", "libtpu",
)  # fmt: skip
FLAGS = (
    "XLA_FLAGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE",
    "MKL_ENABLE_INSTRUCTIONS", "DNNL_MAX_CPU_ISA",
)  # fmt: skip
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sve": "SVE", "asimd": "NEON"}
"""Vector instructions by the flag that tells of them, widest first."""


def describe_machine() -> dict[str, Any]:
    """Returns processor, memory, versions, flags, commit and date, fit for JSON."""
    import psutil

    from kleiber.experiments.launch.local import worker_environment

    given = {name: os.environ[name] for name in FLAGS if name in os.environ}
    worker = worker_environment()
    return {
        "processor": processor(),
        "cores": num_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed(name))},
        "flags_given": given,
        "flags_of_a_worker": {name: worker[name] for name in FLAGS if name in worker},
        "accelerator": accelerator(),
        "commit": commit(),
        "date": now(),
        "command": command_line(),
        "load_average": load(),
    }


def processor(described: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the processor's model and its widest vector instructions, such as `AMD EPYC, AVX-512`.

    A virtual machine often says no more of its model than the maker, and libraries differ most in the vectors they use.

    Args:
      described: where Linux describes the processor; elsewhere it is absent, and the model stands alone.
    """
    try:
        text = described.read_text()
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    name = model[1].strip() if model else platform.processor() or platform.machine()
    widest = next((vectors for flag, vectors in VECTORS.items() if flag in known), None)
    return f"{name}, {widest}" if widest else name


def accelerator() -> str | None:
    """Returns the kind of the attached accelerator, or None. Asks a process of its own, which would keep its memory."""
    from kleiber.parallel.environment import has_accelerator

    if not has_accelerator():
        return None
    line = "import jax; print(jax.devices()[0].platform, jax.devices()[0].device_kind, sep='\\n')"
    asked = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True)
    lines = asked.stdout.strip().splitlines()[-2:]
    return lines[1] if len(lines) == 2 and lines[0] != "cpu" else None


def installed(package: str) -> str | None:
    """Returns the version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """Returns the short commit of the code, `-changed` when tracked files differ; `release` outside git."""

    def git(*words: str) -> str | None:
        try:
            said = subprocess.run(["git", "-C", str(HOUSE), *words], capture_output=True, text=True)
        except OSError:
            return None
        return said.stdout.strip() if said.returncode == 0 else None

    if not (HOUSE / ".git").exists() or not (name := git("rev-parse", "--short=9", "HEAD")):
        return "release"
    # What a bench itself writes is no change of what it measures.
    return name + ("-changed" if git("status", "--porcelain", "-uno", "--", ":!benchmarks", ":!docs") else "")


def load() -> list[float] | None:
    """Returns the programs that ran on average in the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def processor_seconds() -> tuple[float, float]:
    """Returns the seconds that the cores of this process have worked so far, and those of them that were its own.

    Its own are those of itself and of every process it started and has waited for. Time that a host took from a virtual
    machine (steal) is work for others.
    """
    import psutil

    cores = psutil.cpu_times(percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(cores))
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    worked = sum(getattr(cores[core], kind, 0.0) for core in mine if core < len(cores) for kind in kinds)
    own = os.times()
    return worked, own.user + own.system + own.children_user + own.children_system


def now() -> str:
    """Returns the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """Returns the line that started this, without the folders of this machine."""
    words = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    return " ".join(["kleiber", *words]) if words and words[0] == "bench" else "kleiber bench"
