"""Section memory: what a training step takes, against the estimate that plans are made with."""

import contextlib
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kleiber.experiments.bench.figures import Figure
from kleiber.experiments.bench.partner import measure_fresh
from kleiber.experiments.bench.setting import Setting
from kleiber.experiments.bench.timed_steps import TimedSteps, training_config
from kleiber.experiments.compilation.memory import step_memory
from kleiber.parallel.environment import runs_on_cpu
from sections.goals import GOALS

SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "d24, batch 4": ({"d_model": 24, "num_layers": 2, "num_heads": 4}, 4),
    "d128, batch 16": ({"d_model": 128, "num_layers": 4, "num_heads": 4}, 16),
    "d384, batch 8 x 256": ({"d_model": 384, "num_layers": 6, "num_heads": 6, "seq_len": 256}, 8),
}
SHORT_SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "d16": ({"d_model": 16, "num_layers": 1, "num_heads": 1, "seq_len": 16}, 2)
}


def training_bytes(**config: Any) -> Callable[[], dict[str, int]]:
    """Returns a function that trains two calls and says what they took; what was there before is not counted."""

    def measure() -> dict[str, int]:
        import jax

        block = TimedSteps(training_config(**config))
        gc.collect()
        before = _forget_peak()
        block.train()
        block.train()
        program = block.compiled.memory_analysis()
        taken = program.argument_size_in_bytes + program.temp_size_in_bytes
        taken += program.output_size_in_bytes - program.alias_size_in_bytes
        device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        return {"resident_bytes": _status("VmHWM") - before, "program_bytes": taken, "device_bytes": device}

    return measure


def _forget_peak() -> int:
    """Returns the resident bytes now, from where the kernel measures the peak anew: compiling took memory too."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    """Returns a field of the process in bytes; 0 where the system tells none."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def measure_footprint(setting: Setting) -> dict[str, Any]:
    """Returns, by shape, the peak of resident (or device) memory and of the compiled program over the estimate."""
    figures, measured = [], {}
    for name, (model, batch_size) in (SHORT_SHAPES if setting.is_short else SHAPES).items():
        setting.tell(name)
        options = {"model": model, "batch_size": batch_size, "steps_per_call": 4}
        found = measure_fresh("sections.footprint:training_bytes", options)
        estimate = step_memory(training_config(model, batch_size), "cpu" if runs_on_cpu() else "gpu")
        on_device = found["device_bytes"] > 0
        peak = found["device_bytes"] if on_device else found["resident_bytes"]
        where = "peak on the device" if on_device else "resident peak"
        figures += [
            Figure(f"{name}: estimate", estimate.total_bytes / 1e6, "MB"),
            Figure(f"{name}: {where}", peak / 1e6, "MB"),
            Figure(
                f"{name}: program over estimate",
                found["program_bytes"] / estimate.total_bytes,
                "ratio",
                goal=GOALS["memory over its estimate"],
                note=f"{found['program_bytes'] / 1e6:.1f} MB",
            ),
        ]
        measured[name] = {**found, "estimate": {**vars(estimate), "total_bytes": estimate.total_bytes}}
    return {"figures": figures, "bytes": measured}
