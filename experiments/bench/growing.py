"""Section growth: plan, table, fit and report of many records; measured by growth."""

import importlib
from typing import Any

from kleiber.experiments.bench.figures import Figure
from kleiber.experiments.bench.goals import GOALS
from kleiber.experiments.bench.setting import Setting

LARGE = 100_000
"""Records whose seconds and bytes have a goal."""
HELD = ("fit", "fit_csv", "report")


def measure_growing(setting: Setting) -> dict[str, Any]:
    """Returns seconds and peak memory by verb and number of records, and the exponents of growth."""
    measure_growth = importlib.import_module(f"{__package__}.growth").measure_growth
    found = measure_growth(counts=(10,) if setting.is_short else (10, 1_000, LARGE))
    return {"figures": growth_figures(found), **found}


def growth_figures(found: dict[str, Any]) -> list[Figure]:
    """Returns the figures of growth.measure_growth: {"verbs": {verb: {count: {...}}}, "exponents": {verb: power}}."""
    figures = []
    for verb, rows in found["verbs"].items():
        for count, row in rows.items():
            is_held = int(count) == LARGE and verb in HELD
            note = "" if row["exit_code"] == 0 else f"ended with {row['exit_code']}"
            name = f"{verb}, {int(count):,} records"
            seconds, memory = (GOALS[f"100,000 records, {what}"] if is_held else None for what in ("seconds", "bytes"))
            figures.append(Figure(name, row["wall_seconds"], "s", goal=seconds, note=note))
            if is_held:
                figures.append(Figure(f"{name}, peak memory", row["peak_bytes"], "bytes", goal=memory))
        power = found.get("exponents", {}).get(verb)
        if power is not None:
            figures.append(Figure(f"{verb}: seconds grow as records to the power", power, ""))
    return figures
