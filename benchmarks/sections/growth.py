"""Section growth: how plan, table, fit and report grow with the number of records; each is a process of its own.

The records are drawn from a law (`synthetic.py`) and written as workers write them. `table` is the sweep's own
collecting of runs/*/record.json into table.parquet, `register` its fit of two laws with forecasts, `fit` the command on
that table with trunks as clusters, `fit_one_law` the same with one law and no depth, `fit_csv` the command on somebody
else's CSV.
"""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kleiber.experiments.bench.figures import Figure
from kleiber.experiments.bench.setting import Setting
from sections.child import Measurement, measure_command
from sections.goals import GOALS
from sections.synthetic import synthetic_experiment, synthetic_records, write_csv, write_sweep

LARGE = 100_000
"""Records whose seconds and bytes have a goal."""
COUNTS = (10, 1_000, LARGE)
HELD = ("fit", "fit_csv", "report")
ONE_LAW = ("--law", "chinchilla", "--no-in-depth")
"""One form alone, its forecasts not looked at: its processor time has a goal of its own."""
LEAST_SECONDS = 0.5
"""Of processor time above the smallest table's; less than this says nothing about growth."""
CONFIG = """from sections.synthetic import synthetic_experiment


def experiment():
    return synthetic_experiment({count})
"""
TABLE = "from kleiber.experiments.directory.record import *; from pathlib import Path; d = Path({directory!r}); "
TABLE += "write_table(d, read_records(d))"
REGISTER = "from kleiber.experiments.sweeping.law_stage import fit_and_register; from pathlib import Path; "
REGISTER += "from sections.synthetic import synthetic_experiment; "
REGISTER += "fit_and_register(synthetic_experiment({count}), Path({directory!r}), print)"


def measure_growth(setting: Setting) -> dict[str, Any]:
    """Returns what each verb takes for each number of records, and how it grows."""
    counts = COUNTS[:1] if setting.is_short else COUNTS
    measured = {count: _measure(count, setting.place("growth"), setting.tell) for count in counts}
    verbs = {verb: {count: vars(measured[count][verb]) for count in counts} for verb in measured[counts[0]]}
    exponents = {verb: growth_exponent(rows) for verb, rows in verbs.items()}
    return {"figures": growth_figures(verbs, exponents), "verbs": verbs, "exponents": exponents}


def growth_figures(verbs: dict[str, dict[int, dict[str, Any]]], exponents: dict[str, float | None]) -> list[Figure]:
    """Returns the figures of {verb: {count: measurement}} and {verb: power}."""
    figures = []
    for verb, rows in verbs.items():
        for count, row in rows.items():
            is_held = count == LARGE and verb in HELD
            name = f"{verb}, {count:,} records"
            seconds, memory = (GOALS[f"100,000 records, {what}"] if is_held else None for what in ("seconds", "bytes"))
            figures.append(Figure(name, row["wall_seconds"], "s", goal=seconds))
            if is_held:
                figures.append(Figure(f"{name}, peak memory", row["peak_bytes"], "bytes", goal=memory))
            if count == LARGE and verb == "fit_one_law":
                goal = GOALS["one law of 100,000 records, seconds"]
                figures.append(Figure(f"{name}, processor", row["cpu_seconds"], "s", goal=goal))
        power = exponents.get(verb)
        if power is not None:
            figures.append(Figure(f"{verb}: seconds grow as records to the power", power, ""))
    return figures


def _measure(count: int, folder: Path, tell: Callable[[str], None]) -> dict[str, Measurement]:
    """Returns the measurement of every verb on one sweep; the later ones need what the earlier ones write."""
    directory, config, table = folder / "sweep", folder / "growth.py", folder / "runs.csv"
    experiment = synthetic_experiment(count)
    records = synthetic_records(experiment)
    write_sweep(directory, experiment, records)
    write_csv(table, records)
    config.write_text(CONFIG.format(count=count))
    python, kleiber = [sys.executable, "-c"], [sys.executable, "-m", "kleiber.experiments.cli"]
    names = "loss=val_loss,num_params_total=params,num_tokens=tokens"
    commands = {
        "plan": [*kleiber, "plan", str(config), "--json"],
        "table": [*python, TABLE.format(directory=str(directory))],
        "fit": [*kleiber, "fit", str(directory / "table.parquet"), "--cluster", "trunk_id", "--json"],
        "fit_one_law": [*kleiber, "fit", str(directory), "--cluster", "trunk_id", *ONE_LAW, "--json"],
        "fit_csv": [*kleiber, "fit", str(table), "--columns", names, "--json"],
        "register": [*python, REGISTER.format(count=count, directory=str(directory))],
        "report": [*kleiber, "report", str(directory), "--json"],
    }
    # Where this section is found, its parts are found by what it starts.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = {}
    for verb, command in commands.items():
        tell(f"{verb} of {count:,} records")
        found[verb] = measure_command(command, folder / f"{verb}.out", environment)
        if found[verb].exit_code != 0:
            words = (folder / f"{verb}.err").read_text()[-300:]
            raise RuntimeError(f"{verb} of {count:,} records ended with {found[verb].exit_code}: {words}")
    return found


def growth_exponent(rows: dict[int, dict[str, Any]]) -> float | None:
    """Returns the power of the count by which processor time grew between the two largest counts, start-up taken off.

    The smallest count stands for the start-up. None where the middle one takes hardly more: nothing to compare with.

    Args:
      rows: {count: {"cpu_seconds": ...}}, three counts or more.
    """
    first, *others = sorted(rows)
    if len(others) < 2:
        return None
    low, high = others[-2:]
    above = [rows[count]["cpu_seconds"] - rows[first]["cpu_seconds"] for count in (low, high)]
    if above[1] < LEAST_SECONDS:
        return None
    # Below LEAST_SECONDS the smaller difference is noise; taken as that, the exponent is at least what is said.
    return math.log(above[1] / max(above[0], LEAST_SECONDS)) / math.log(high / low)
