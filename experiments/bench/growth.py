"""How plan, table, fit and report grow with the number of records; each is a process of its own.

The records are drawn from a law (`synthetic.py`) and written as workers write them. `table` is the sweep's own
collecting of runs/*/record.json into table.parquet, `register` its fit of two laws with forecasts, `fit` the command on
that table with trunks as clusters, `fit_csv` the command on somebody else's CSV.

Example: python -m kleiber.experiments.bench.growth --counts 10 1000 100000
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kleiber.experiments.bench.child import Measurement, measure_command
from kleiber.experiments.bench.synthetic import synthetic_experiment, synthetic_records, write_csv, write_sweep
from kleiber.experiments.record import versions

COUNTS = (10, 1_000, 100_000)
MOST_SECONDS = 60.0
MOST_BYTES = 2e9
"""What `kleiber fit` and `kleiber report` may take for 100,000 records, on two cores."""
LEAST_SECONDS = 0.5
"""Of processor time above the smallest table's; less than this says nothing about growth."""
CONFIG = """from kleiber.experiments.bench.synthetic import synthetic_experiment


def experiment():
    return synthetic_experiment({count})
"""
TABLE = "from kleiber.experiments.record import *; from pathlib import Path; d = Path({directory!r}); "
TABLE += "write_table(d, read_records(d))"
REGISTER = "from kleiber.experiments.law_stage import fit_and_register; from pathlib import Path; "
REGISTER += "from kleiber.experiments.bench.synthetic import synthetic_experiment; "
REGISTER += "fit_and_register(synthetic_experiment({count}), Path({directory!r}), print)"


def measure_growth(counts: Sequence[int] = COUNTS, folder: Path | None = None) -> dict[str, Any]:
    """Returns what each verb takes for each number of records, and how it grows.

    Args:
      counts: numbers of records, increasing.
      folder: for the synthetic sweeps; a temporary one, removed afterwards, if left out.

    Returns:
      {"verbs": {verb: {count: {"wall_seconds", "cpu_seconds", "peak_bytes", "exit_code"}}}, "exponents": {verb:
      exponent or None}, "goals": {verb: {"limit_seconds", "limit_bytes", "holds"}}, and machine, date and versions}.
    """
    with tempfile.TemporaryDirectory(prefix="kleiber-growth-") as scratch:
        load = os.getloadavg()
        measured = {count: _measure(count, Path(folder or scratch) / str(count)) for count in counts}
    verbs = {verb: {count: vars(measured[count][verb]) for count in counts} for verb in measured[counts[0]]}
    return {
        "verbs": verbs,
        "exponents": {verb: growth_exponent(rows) for verb, rows in verbs.items()},
        "goals": _goals(verbs),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_before": load,
        "load_average_after": os.getloadavg(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
    }


def _measure(count: int, folder: Path) -> dict[str, Measurement]:
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
        "fit_csv": [*kleiber, "fit", str(table), "--columns", names, "--json"],
        "register": [*python, REGISTER.format(count=count, directory=str(directory))],
        "report": [*kleiber, "report", str(directory), "--json"],
    }
    found = {}
    for verb, command in commands.items():
        found[verb] = measure_command(command, folder / f"{verb}.out")
        words = "" if found[verb].exit_code == 0 else (folder / f"{verb}.err").read_text()[-300:]
        print(f"{count:>9,} {verb:<9} {_row(found[verb])} {words}", file=sys.stderr, flush=True)
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


def _goals(verbs: dict[str, dict[int, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    goals = {}
    for verb in ("fit", "fit_csv", "report"):
        row = verbs[verb].get(COUNTS[-1])
        is_small = row and row["wall_seconds"] <= MOST_SECONDS and row["peak_bytes"] <= MOST_BYTES
        holds = bool(is_small and row["exit_code"] == 0) if row else None
        goals[verb] = {"limit_seconds": MOST_SECONDS, "limit_bytes": MOST_BYTES, "holds": holds}
    return goals


def _row(one: Measurement) -> str:
    return (
        f"{one.wall_seconds:8.2f} s wall {one.cpu_seconds:8.2f} s cpu {one.peak_bytes / 1e6:8.0f} MB exit "
        f"{one.exit_code}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--folder", type=Path, help="keep the synthetic sweeps here")
    arguments = parser.parse_args()
    print(json.dumps(measure_growth(arguments.counts, arguments.folder), indent=1))
