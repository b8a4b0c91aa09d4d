"""The middle of a sweep: fit the laws, register the forecasts before their targets train, and score them after.

Each is tied to what it was made of. A fit holds the digest of its rows and laws, a forecast the fit and the run it is
for, an outcome its run; what no longer agrees with the experiment that is there now is kept by name, and made again.
"""

import hashlib
import json
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.directory.record import RunRecord, read_record, record_columns, record_path, write_table
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import TrunkCell, all_cells, cell_records, records_digest, trunk_cells
from kleiber.experiments.planning.law_columns import further_columns, law_table
from kleiber.experiments.sweeping.inventory import made_with, own_laws, text_key
from kleiber.files import read_json, write_json
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult, read_fits
from kleiber.scaling.forecasting.anchor import check_heads, noting_files
from kleiber.scaling.forecasting.forecast import Forecast, baseline_losses, combined_forecast
from kleiber.scaling.forecasting.ledger import Ledger, LedgerConflictError
from kleiber.scaling.forecasting.rolling import Protection, protect, protection_json, read_protection
from kleiber.scaling.forecasting.scoreboard import standing
from kleiber.scaling.forecasting.track_record import read_track_record
from kleiber.scaling.table.table import RunTable, read_table
from kleiber.scaling.table.warned import UnitWarning

MIN_POINTS_SO_FAR = 12
"""Points from which on a running sweep shows what it would forecast."""
Say = Callable[[str], None]


class CannotFit(ValueError):
    """The finished points carry no law; the message says why."""


def fit_laws(experiment: Experiment, table: RunTable) -> list[FitResult]:
    """Returns the fit of every law of the experiment, in its order; trunk-shared noise is modelled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnitWarning)  # the plan has counted them: few are few, in no other unit
        return [fit_law(law_table(table, law), law, cluster="trunk_id") for law in experiment.laws]


def forecast_targets(
    experiment: Experiment, fits: list[FitResult], protection: Protection | None
) -> dict[str, tuple[RunRecord, Forecast]]:
    """Returns (planned record, forecast) of each target by name, from all laws of the experiment together."""
    result = {}
    for cell in trunk_cells(experiment, "target"):
        (planned,) = cell.planned.values()
        size, tokens = planned.num_params_total, planned.num_tokens
        columns = {name: value for law in experiment.laws for name, value in further_columns(law, planned).items()}
        result[cell.target] = (planned, combined_forecast(fits, size, tokens, experiment.level, columns, protection))
    return result


def forecast_so_far(experiment: Experiment, directory: Path) -> str:
    """Returns ` | name so far 1.25 +- .02` for each target from the points there are, or nothing when too few."""
    records = [r for r in cell_records(trunk_cells(experiment, "fit"), directory) if r.status == "done"]
    if len(records) < MIN_POINTS_SO_FAR:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = read_table(record_columns(records))
            fits = fit_laws(experiment, table)
            forecasts = forecast_targets(experiment, fits, _protection(experiment, fits))
    except ValueError:
        return ""
    halves = {name: (f.interval[1] - f.interval[0]) / 2 for name, (_, f) in forecasts.items()}
    parts = [f"{name} {f.predicted_loss:.3f}±{halves[name]:.3f}" for name, (_, f) in forecasts.items()]
    return f" | forecast so far: {', '.join(parts)}" if np.isfinite(list(halves.values())).all() else ""


def fit_and_register(experiment: Experiment, directory: Path, say: Say) -> dict[str, Any]:
    """Freezes the fit in fit.json and writes every forecast to the ledger; what still holds is not made again.

    Returns:
      `law`, `residual_rms`, `num_points`, and `told`: a sentence on each thing that was withdrawn or came late.

    Raises:
      CannotFit: the points cannot carry the law.
      ValueError: the ledger was tampered with, or a file is damaged.
    """
    records = cell_records(all_cells(experiment), directory)
    write_table(directory, records)
    fitted = [r for r in records if r.split == "fit"]
    largest = max((r.flops for r in fitted if r.status == "done"), default=1.0)
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        say(text)

    ledger = Ledger(directory / "ledger.jsonl")
    check_heads(ledger)
    digest = fit_digest(experiment, fitted)
    _withdraw(experiment, directory, digest, fitted, tell)
    del records, fitted  # the table has them now, in a tenth of the memory
    fits, protection = _frozen_fits(experiment, directory, digest)
    say(fits[0].report())
    registered, law, texts = standing(ledger.entries()), fits[0].law, _texts(experiment, directory)
    for name, (planned, predicted) in forecast_targets(experiment, fits, protection).items():
        law, begun = predicted.law, begun_at(directory, planned.run_id)
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
            begun_at=begun,
            made_for={"run_id": planned.run_id, "fit": digest, **texts.get(name, {})},
            **predicted.basis,
        )
        low, high = entry["interval"]
        say(f"registered {name}: {entry['predicted_loss']:.4f} [{low:.4f}, {high:.4f}], hash {entry['hash'][:12]}")
        if entry.get("late"):
            tell(
                f"the forecast of {name} is late: its run began at {entry['begun_at']}, so that it proves nothing; "
                "give the target another seed to test the law"
            )
    return {"law": law, "residual_rms": fits[0].residual_rms, "num_points": fits[0].num_points, "told": told}


def withdraw_all(experiment: Experiment, directory: Path, tell: Say) -> None:
    """Keeps the fit of an earlier experiment beside by name, and withdraws its forecasts, where this one has no laws.

    Args:
      experiment: without laws.
      directory: of its sweep.
      tell: takes a sentence on each thing that was withdrawn.
    """
    path = directory / "fit.json"
    is_of_sweep = path.exists() and "made_from" in read_json(path)  # any other is the user's own
    if is_of_sweep or (directory / "ledger.jsonl").exists():
        fitted = cell_records(trunk_cells(experiment, "fit"), directory)
        _withdraw(experiment, directory, fit_digest(experiment, fitted), fitted, tell)


def fit_digest(experiment: Experiment, fitted: list[RunRecord]) -> str:
    """Returns 16 hexadecimal digits of what a fit is made of: the laws, files of own ones, records of split fit, and
    the names of past ledgers, whose outcomes fit.json keeps as they were."""
    made_of = [experiment.laws, records_digest(fitted), *own_laws(experiment).values(), *experiment.past_ledgers]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def begun_at(directory: Path, run_id: str) -> str | None:
    """Returns when a target's run began, in ISO 8601; None if there is neither a note, a checkpoint nor a record."""
    begun, record = noting_files(directory, run_id)
    if begun.exists():
        return str(read_json(begun, "at", "ledger_head")["at"])
    found = [record, *(begun.parent / "checkpoints").glob("*/step_*")]
    times = [path.stat().st_mtime for path in found if path.exists()]
    return datetime.fromtimestamp(min(times), UTC).isoformat(timespec="seconds") if times else None


def _texts(experiment: Experiment, directory: Path) -> dict[str, dict[str, str]]:
    """Returns {"text": fingerprint of what it reads, or of its program} of each target: as its record has it, where an
    edited program left that as it is, else as the directory noted it."""
    known, cells = made_with(directory).get("data", {}), trunk_cells(experiment, "target")
    done = {r.target: r.program_fingerprint for r in cell_records(cells, directory) if r.status == "done"}
    texts = {cell.target: done.get(cell.target) or known.get(text_key(cell)) for cell in cells}
    return {target: {"text": text} for target, text in texts.items() if text}


def _withdraw(
    experiment: Experiment, directory: Path, digest: str, fitted: list[RunRecord], tell: Callable[[str], None]
) -> None:
    """Keeps a fit of other rows or laws beside by name, and withdraws each forecast that is not of what is there."""
    ledger, path = Ledger(directory / "ledger.jsonl"), directory / "fit.json"
    cells = {cell.target: cell for cell in trunk_cells(experiment, "target")}
    data = read_json(path, "law", "rivals", "points") if path.exists() else None
    kept, texts = "", _texts(experiment, directory)
    if data is not None and not _is_fit_of(data, experiment, digest, fitted):
        old = data.get("made_from") or hashlib.sha256(path.read_bytes()).hexdigest()
        kept = f"fit.{old[:8]}.json"
    for target, (forecast, outcome) in standing(ledger.entries()).items():
        reason = _why_withdrawn(forecast, outcome, cells.get(target), experiment.level)
        text = texts.get(target, {}).get("text")
        if not reason and text and forecast.get("text", text) != text:
            reason = f"its target was to read {forecast['text']}, and reads {text} now"
        if not reason and target in cells and (kept or forecast.get("fit", digest) != digest):
            reason = "the runs or laws that it was made of are not those of the experiment now"
        if reason:
            ledger.withdraw(target, reason)
            tell(f"the forecast of {target}, {forecast['predicted_loss']:.4f}, is withdrawn: {reason}")
    if kept:  # last: whoever is stopped before finds the old fit, and withdraws the rest
        path.rename(directory / kept)
        anew = "are fitted anew, as the runs or laws changed since" if experiment.laws else "are none now"
        tell(f"the laws {anew}; the fit before is kept as {kept}")


def _why_withdrawn(
    forecast: dict[str, Any], outcome: dict[str, Any] | None, cell: TrunkCell | None, level: float
) -> str:
    """Returns why a forecast, or its outcome, is not one of the experiment's target; nothing if it is.

    A forecast of a release that did not note its run is known by its size, or by the run that was scored.
    """
    if cell is None:  # somebody else's, if no run is noted with it
        return "the experiment has no such target now" if forecast.get("run_id") else ""
    ((run_id, planned),) = [(planned.run_id, planned) for planned in cell.planned.values()]
    noted = forecast.get("run_id") or (outcome or {}).get("run_id", run_id)
    size = (forecast["num_params_total"], forecast["num_tokens"])
    if noted != run_id or size != (planned.num_params_total, planned.num_tokens):
        return f"the config of its target changed: it was for {noted}, and the run is {run_id} now"
    return f"its level was {forecast['level']:g}, and is {level:g} now" if forecast["level"] != level else ""


def _is_fit_of(data: dict[str, Any], experiment: Experiment, digest: str, fitted: list[RunRecord]) -> bool:
    """Returns whether a fit.json is of these laws and rows; one without a digest is known by the points it holds."""
    if "made_from" in data:
        return data["made_from"] == digest
    if [data["law"], *(rival["law"] for rival in data["rivals"])] != list(experiment.laws):
        return False
    names = list(data["points"])
    rows = [record.to_json() for record in fitted if record.status == "done"]
    then = sorted(zip(*(data["points"][name] for name in names), strict=True))
    return then == sorted(tuple(float(row.get(name) or 0.0) for name in names) for row in rows)


def _frozen_fits(experiment: Experiment, directory: Path, digest: str) -> tuple[list[FitResult], Protection | None]:
    """Returns the fits of fit.json and their protection, or makes and writes them: registered forecasts came from these
    very numbers."""
    path = directory / "fit.json"
    if path.exists():
        try:
            found, data = read_fits(path)
            fits = list(found)
            return fits, read_protection(data, fits)
        except ValueError as problem:
            raise ValueError(f"{problem} Remove it, then type the same line: it is made again.") from None
    try:
        fits = fit_laws(experiment, read_table(directory / "table.parquet"))
    except ValueError as problem:
        raise CannotFit(str(problem)) from problem
    protection = _protection(experiment, fits)
    rivals = [fit.to_json() for fit in fits[1:]]
    made = {"rivals": rivals, **protection_json(fits, protection), "made_from": digest}
    write_json(path, {**fits[0].to_json(), **made})
    return fits, protection


def _protection(experiment: Experiment, fits: list[FitResult]) -> Protection:
    own = protect(fits)
    return read_track_record(experiment.past_ledgers).heard_by(own) if experiment.past_ledgers else own


def score_targets(experiment: Experiment, directory: Path, say: Say) -> dict[str, Any]:
    """Writes the outcome of every finished target to the ledger and returns all outcomes with their forecasts.

    Raises:
      ValueError: a target's record is not what was scored before, or the ledger was written anew since it began.
    """
    ledger = Ledger(directory / "ledger.jsonl")
    check_heads(ledger)
    forecasts = standing(ledger.entries())
    results = []
    for cell in trunk_cells(experiment, "target"):
        (name,) = cell.run_ids.values()
        record = read_record(record_path(directory, name))
        if record.status != "done" or record.loss is None:
            results.append({"target": cell.target, "status": record.status, "reason": record.reason})
            continue
        try:
            outcome = ledger.outcome(cell.target, name, record.loss)
        except LedgerConflictError as problem:
            raise ValueError(
                f"{problem} Remove {record_path(directory, name)} and type the same line: it is measured again. If it "
                "comes out as now, it is the ledger that was changed, and its forecasts prove nothing."
            ) from None
        results.append({**forecasts[cell.target][0], **outcome, "status": "done"})
    say("the targets are scored in ledger.jsonl")
    return {"targets": results, "scoreboard": ledger.scoreboard()}
