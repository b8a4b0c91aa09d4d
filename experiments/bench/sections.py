"""The sections of the bench: what each measures and where its function is. Loads nothing before it runs."""

from dataclasses import dataclass
from typing import Any

from kleiber.experiments.bench.setting import Setting, find_function


@dataclass(frozen=True)
class Section:
    """One part of the bench, measured by a function Setting -> {"figures": [Figure], ...}."""

    name: str
    says: str
    """What it measures, in a line."""
    function: str
    """As find_function takes it."""

    def measure(self, setting: Setting) -> dict[str, Any]:
        """Returns what the section found."""
        return find_function(self.function)(setting)


_LIST = (
    Section("machine", "processor, versions, flags, commit", "machine:describe_machine"),
    Section("matmul", "matmul peak now: NumPy and XLA, one thread and all", "matmul:measure_matmul"),
    Section("step", "one model: tokens/s, ratio to peers, fraction of the matmul peak", "one_model:measure_one_model"),
    Section("sweep", "a whole sweep against PyTorch", "sections.sweep_speed:measure_sweep"),
    Section("compile", "compile seconds, cold and from the cache", "sections.compiling:measure_compiling"),
    Section("memory", "memory of a step against its estimate", "sections.footprint:measure_footprint"),
    Section("startup", "imports, --help, start to first step", "sections.startup:measure_startup"),
    Section("data", "data pipeline against the fastest shape", "sections.pipeline:measure_pipeline"),
    Section("checkpoint", "verified save against plain Orbax, and its stall", "sections.saving:measure_saving"),
    Section("fit", "4,500 starts, 1,000 refits, against scipy", "sections.fitting:measure_fitting"),
    Section("guard", "what the non-finite guard costs", "sections.guarding:measure_guarding"),
    Section("seals", "what sealing every file costs a sweep", "sections.seals:measure_seals"),
    Section("growth", "plan, table, fit, report of many records", "sections.growth:measure_growth"),
    Section("decode", "tokens/s drawn beside its peers, many requests in slots", "sections.decoding:measure_decoding"),
    Section("serve", "a server under bodies of no sense and 32 clients", "sections.serving:measure_serving"),
    Section("accelerator", "large and small models on an accelerator", "sections.accelerator:measure_accelerator"),
)  # fmt: skip
SECTIONS = {section.name: section for section in _LIST}
"""By name, in the order of running."""
