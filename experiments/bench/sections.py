"""The sections of the bench: what each measures and where its function is. Loads nothing before it runs."""

import importlib
from dataclasses import dataclass
from typing import Any

from kleiber.experiments.bench.setting import Setting


@dataclass(frozen=True)
class Section:
    """One part of the bench, measured by a function Setting -> {"figures": [Figure], ...}."""

    name: str
    says: str
    """What it measures, in a line."""
    function: str
    """MODULE:FUNCTION of kleiber.experiments.bench."""

    def measure(self, setting: Setting) -> dict[str, Any]:
        """Returns what the section found."""
        module, function = self.function.split(":")
        return getattr(importlib.import_module(f"{__package__}.{module}"), function)(setting)


_LIST = (
    Section("machine", "processor, versions, flags, commit", "machine:measure_machine"),
    Section("matmul", "matmul peak now: NumPy and XLA, one thread and all", "matmul:measure_matmul"),
    Section("step", "one model: tokens/s, ratio to peers, fraction of the matmul peak", "one_model:measure_one_model"),
    Section("sweep", "a whole sweep against PyTorch", "sweep_speed:measure_sweep"),
    Section("compile", "compile seconds, cold and from the cache", "compiling:measure_compiling"),
    Section("memory", "memory of a step against its estimate", "footprint:measure_footprint"),
    Section("startup", "imports, --help, start to first step", "startup:measure_startup"),
    Section("data", "data pipeline against the fastest shape", "pipeline:measure_pipeline"),
    Section("checkpoint", "verified save against plain Orbax, and its stall", "saving:measure_saving"),
    Section("fit", "4,500 starts, 1,000 refits, against scipy", "fitting:measure_fitting"),
    Section("guard", "what the non-finite guard costs", "guarding:measure_guarding"),
    Section("growth", "plan, table, fit, report of many records", "growth:measure_growth"),
    Section("accelerator", "large and small models on an accelerator", "accelerator:measure_accelerator"),
)  # fmt: skip
SECTIONS = {section.name: section for section in _LIST}
"""By name, in the order of running."""
