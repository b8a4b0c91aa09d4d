"""What the accelerator section trains, by the name of its goal; and the same, tiny, to run the code without one."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Workload:
    """A model, its batch, and what is asked of it."""

    kind: Literal["fraction", "population", "host", "stall"]
    """Fraction of the matmul peak, a population over one model after another, host seconds a step, stall of a save."""
    model: dict[str, Any]
    batch_size: int = 1
    num_members: int = 1
    steps_per_call: int = 8
    loss_blocks: int = 1

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of kleiber.experiments.bench.timed_steps.training_config."""
        return {
            "model": self.model,
            "batch_size": self.batch_size,
            "steps_per_call": self.steps_per_call,
            "loss_blocks": self.loss_blocks,
        }


def _model(d_model: int, num_layers: int, num_heads: int, seq_len: int = 1024, **fields: Any) -> dict[str, Any]:
    shape = {"d_model": d_model, "num_layers": num_layers, "num_heads": num_heads, "seq_len": seq_len}
    return {**shape, "compute_dtype": "bfloat16", **fields}


_GPT2: dict[str, Any] = {"vocab_size": 50_304, "activation": "gelu", "attention_blocks": 4, "has_scanned_layers": True}
_ONE_MILLION = _model(128, 5, 4, 256)
WORKLOADS: dict[str, Workload] = {
    "124m": Workload("fraction", _model(768, 12, 12, **_GPT2), batch_size=32, loss_blocks=4),
    "350m": Workload("fraction", _model(1024, 24, 16, **_GPT2), batch_size=16, loss_blocks=4),
    "10m": Workload("fraction", _model(320, 8, 5), batch_size=16, steps_per_call=32),
    "10m x 16": Workload("fraction", _model(320, 8, 5), batch_size=4, num_members=16),
    "1m x 64": Workload("population", _ONE_MILLION, batch_size=8, num_members=64, steps_per_call=32),
    "0.1m x 512": Workload("population", _model(48, 4, 2, 128), batch_size=4, num_members=512, steps_per_call=32),
    "host overhead": Workload("host", _ONE_MILLION, batch_size=8, steps_per_call=64),
    "stall": Workload("stall", {}, num_members=18_000),  # 18 GB: 1.5 billion weights and two moments in float32
}
"""num_members of a stall are the arrays of a million bytes in the state that is saved."""

_TINY = _model(16, 1, 1, 16)
SHORT_WORKLOADS: dict[str, Workload] = {
    "124m": Workload("fraction", {**_TINY, "attention_blocks": 2, "has_scanned_layers": True}, 2, loss_blocks=2),
    "10m x 16": Workload("fraction", _TINY, 2, num_members=2, steps_per_call=2),
    "1m x 64": Workload("population", _TINY, 2, num_members=3, steps_per_call=2),
    "host overhead": Workload("host", _TINY, 2, steps_per_call=4),
    "stall": Workload("stall", {}, num_members=2),
}
