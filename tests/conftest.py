"""Settings of every test: the CPU seen as eight devices, and no file outside temporary folders."""

import os
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Compiled quickly, run slowly: most tests run a program once. In eight parts of the time, and the same numbers but for
# rounding; it holds for the processes that tests start, too.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jax").startswith("0.10."):  # XLA ends a process, without a word, for a flag that it no longer has
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", QUICK)

import jax  # noqa: E402
import pytest  # noqa: E402

# Before any JAX operation: afterwards the number of devices can no longer change.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


# A shell's background ignores Ctrl-C, and so would every process that a test starts there.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("test_chaos.py", "test_sweep.py", "test_tutorials.py", "test_parallel.py", "test_peers.py", "test_hosts.py")
"""Files of a minute or more. They begin first, so that no process is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; the order is otherwise as it was."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def temporary_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Points kleiber's cache at a temporary folder and JAX at the CPU, here and in every process that a test starts."""
    folder = tmp_path_factory.mktemp("kleiber-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLEIBER_CACHE", str(folder))
        patch.setenv("JAX_PLATFORMS", "cpu")
        # Programs so quickly compiled are below the time from which on a worker keeps them for the next.
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield folder
