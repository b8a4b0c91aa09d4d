"""The middle of a sweep: fit the laws, register the forecasts before their targets train, and score them after."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kleiber.experiments.directory.record import (
    RunRecord,
    read_record,
    read_records,
    record_columns,
    record_path,
    write_table,
)
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.planning.law_columns import further_columns, law_table
from kleiber.files import read_json, write_json
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import Forecast, baseline_losses, combined_forecast
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.scaling.table.table import RunTable, read_table

MIN_POINTS_SO_FAR = 12
"""Points from which on a running sweep shows what it would forecast."""


def fit_laws(experiment: Experiment, table: RunTable) -> list[FitResult]:
    """Returns the fit of every law of the experiment, in its order; trunk-shared noise is modelled."""
    return [fit_law(law_table(table, law), law, cluster="trunk_id") for law in experiment.laws]


def forecast_targets(experiment: Experiment, fits: list[FitResult]) -> dict[str, tuple[RunRecord, Forecast]]:
    """Returns (planned record, forecast) of each target by name; the laws of the experiment have equal say."""
    result = {}
    for cell in trunk_cells(experiment, "target"):
        (planned,) = cell.planned.values()
        columns = {name: value for law in experiment.laws for name, value in further_columns(law, planned).items()}
        found = combined_forecast(fits, planned.num_params_total, planned.num_tokens, experiment.level, columns)
        result[cell.target] = (planned, found)
    return result


def forecast_so_far(experiment: Experiment, directory: Path) -> str:
    """Returns ` | name so far 1.25 +- .02` for each target from the points there are, or nothing when too few."""
    records = [r for r in read_records(directory) if r.split == "fit" and r.status == "done"]
    if len(records) < MIN_POINTS_SO_FAR:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = read_table(record_columns(records))
            forecasts = forecast_targets(experiment, fit_laws(experiment, table))
    except ValueError:
        return ""
    parts = [
        f"{name} {f.predicted_loss:.3f}±{(f.interval[1] - f.interval[0]) / 2:.3f}" for name, (_, f) in forecasts.items()
    ]
    return f" | forecast so far: {', '.join(parts)}"


def fit_and_register(experiment: Experiment, directory: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Freezes the fit in fit.json and writes every forecast to the ledger; nothing is registered twice.

    Raises:
      ValueError: the points cannot carry the law, or the ledger was tampered with.
    """
    records = read_records(directory)
    write_table(directory, records)
    largest = max((r.flops for r in records if r.split == "fit" and r.status == "done"), default=1.0)
    del records  # the table has them now, in a tenth of the memory
    path, ledger = directory / "fit.json", Ledger(directory / "ledger.jsonl")
    ledger.verify()
    if path.exists():  # frozen by an earlier launch: the registered forecasts came from these very numbers
        data = read_json(path)
        fits = [FitResult.from_json(part) for part in (data, *data["rivals"])]
    else:
        table = read_table(directory / "table.parquet")
        fits = fit_laws(experiment, table)
        write_json(path, {**fits[0].to_json(), "rivals": [fit.to_json() for fit in fits[1:]]})
    say(fits[0].report())
    registered = {entry["target"] for entry in ledger.entries() if entry["event"] == "forecast"}
    law = fits[0].law
    for name, (planned, predicted) in forecast_targets(experiment, fits).items():
        law = predicted.law
        if name in registered:
            continue
        size, tokens = planned.num_params_total, planned.num_tokens
        entry = ledger.register(
            target=name,
            num_params_total=size,
            num_tokens=tokens,
            flops=planned.flops,
            compute_ratio=planned.flops / largest,
            law=predicted.law,
            predicted_loss=predicted.predicted_loss,
            interval=predicted.interval,
            level=predicted.level,
            baselines=baseline_losses(fits[0], size, tokens),
        )
        low, high = entry["interval"]
        say(f"registered {name}: {entry['predicted_loss']:.4f} [{low:.4f}, {high:.4f}], hash {entry['hash'][:12]}")
    return {"law": law, "residual_rms": fits[0].residual_rms, "num_points": fits[0].num_points}


def score_targets(experiment: Experiment, directory: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Writes the outcome of every finished target to the ledger and returns all outcomes with their forecasts."""
    ledger = Ledger(directory / "ledger.jsonl")
    entries = ledger.entries()
    forecasts = {entry["target"]: entry for entry in entries if entry["event"] == "forecast"}
    outcomes = {entry["target"]: entry for entry in entries if entry["event"] == "outcome"}
    results = []
    for cell in trunk_cells(experiment, "target"):
        (name,) = cell.run_ids.values()
        record = read_record(record_path(directory, name))
        if record.status != "done" or record.loss is None:
            results.append({"target": cell.target, "status": record.status, "reason": record.reason})
            continue
        if cell.target not in outcomes:
            outcomes[cell.target] = ledger.outcome(cell.target, name, record.loss)
        results.append({**forecasts[cell.target], **outcomes[cell.target], "status": "done"})
    say("the targets are scored in ledger.jsonl")
    return {"targets": results, "scoreboard": ledger.scoreboard()}
