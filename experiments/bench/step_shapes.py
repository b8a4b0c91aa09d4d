"""The shapes and the arrangements that the step bench compares. Needs neither jax nor torch."""

from dataclasses import dataclass
from typing import Any

from kleiber.experiments.launch.local import worker_environment
from kleiber.model.config import ModelConfig
from kleiber.parallel.environment import num_cores


@dataclass(frozen=True)
class StepShape:
    """A model and how much it trains on in a step."""

    model: ModelConfig
    batch_size: int
    num_steps: int
    """Steps between two looks at the clock: half a second or more."""

    @property
    def tokens_per_step(self) -> int:
        """Training tokens of one step."""
        return self.batch_size * self.model.seq_len


@dataclass(frozen=True)
class Arrangement:
    """One way to train one model on this machine."""

    kind: str
    """kleiber, torch, torch_compiled or jax."""
    num_threads: int
    num_devices: int = 1

    def environment(self) -> dict[str, str]:
        """Returns the environment of its process: as many threads as it says."""
        environment = worker_environment(self.num_devices)
        threads = str(self.num_threads)
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        if self.num_threads == 1:
            environment["NPROC"] = "0"  # XLA's flag for one thread does not reach all of its products
        if self.num_threads > self.num_devices:
            flags = environment["XLA_FLAGS"].replace("--xla_cpu_multi_thread_eigen=false", "")
            environment["XLA_FLAGS"] = flags.strip()
        return environment


def shapes() -> dict[str, StepShape]:
    """Returns the shapes by name: three for the comparison, one of the sweep's, one large, one as small as nanoGPT's
    recipe for a laptop."""

    def shape(d_model: int, num_layers: int, batch_size: int, num_steps: int, **fields: Any) -> StepShape:
        return StepShape(ModelConfig(d_model=d_model, num_layers=num_layers, **fields), batch_size, num_steps)

    return {
        "d32": shape(32, 2, 16, 40, num_heads=4),
        "d64": shape(64, 4, 16, 16, num_heads=4),
        "d128": shape(128, 4, 16, 8, num_heads=4),
        "d256": shape(256, 6, 16, 3, num_heads=4),
        "d384": shape(384, 6, 8, 2, num_heads=6, seq_len=256),
        "nanogpt": shape(128, 4, 12, 16, num_heads=4, seq_len=64, vocab_size=65),
    }


def arrangements() -> dict[str, Arrangement]:
    """Returns the ways to use all cores for one model, by name."""
    cores = num_cores()
    return {
        "kleiber_threads": Arrangement("kleiber", cores),
        "kleiber_data": Arrangement("kleiber", cores, cores),
        "torch": Arrangement("torch", cores),
        "torch_compiled": Arrangement("torch_compiled", cores),
        "jax": Arrangement("jax", cores),
    }
