"""A trunk, or population, trained by kleiber's own trainer, and the records of its points."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from kleiber.experiments.config_file import to_data
from kleiber.experiments.directory.record import (
    FORGOTTEN,
    LOSS_ON,
    RunRecord,
    read_record,
    record_path,
    source_columns,
    source_folder,
    versions,
)
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import TrunkCell, group_id, kept_weights
from kleiber.experiments.planning.pruning import Hopeless, percent_done, rivals, why_hopeless
from kleiber.experiments.sweeping.compiled import cache_of_programs, seal_new
from kleiber.experiments.sweeping.ownership import allowed_fields
from kleiber.files import read_json, replacing, sealed_text, write_json
from kleiber.parallel import hosts
from kleiber.train.config import TrainConfig
from kleiber.train.start import kept_weights_of
from kleiber.train.update.noise_scale import noise_scale
from kleiber.train.watch.metrics import whole_rows
from kleiber.train.watch.signals import StopRequest

if TYPE_CHECKING:
    from kleiber.train.evaluate import Evaluation


def ledger_head(cell: TrunkCell, directory: Path) -> str | None:
    """Returns the last hash of the ledger when a target began, as noted then; None for other runs."""
    is_noted = cell.target and hosts.is_lead()
    return read_json(directory / "runs" / cell.trunk_id / "begun.json")["ledger_head"] if is_noted else None


def write_record(directory: Path, cell: TrunkCell, num_tokens: int, record: RunRecord) -> None:
    """Writes the record of a point, and the config beside it that it is of."""
    path = record_path(directory, record.run_id)
    write_json(path.parent / "config.json", {"num_tokens": num_tokens, "trunk": to_data(cell.config)})
    write_json(path, record.to_json())


def _splice(folder: Path) -> str:
    """Returns from which trunk, and over which changes of its config, a trunk went on; nothing if it did not."""
    path = folder / "continued.json"
    continued = read_json(path) if path.exists() else {"changed": []}
    changed = continued.get("changed", ["unknown"])  # older releases did not say
    return f"went on from {continued['from']} with {'; '.join(changed)}" if changed else ""


def noise_columns(config: TrainConfig, folder: Path, num_steps: int) -> dict[str, Any]:
    """Returns the columns of the gradient noise scale, from the last half of the plateau's steps in a step log."""
    if not config.measures_noise_scale:
        return {}
    rows = [row for row in whole_rows(folder / "metrics.jsonl") if row["segment"] == "trunk"]
    rows = [row for row in rows if num_steps / 2 <= row["step"] <= num_steps]
    found = noise_scale(rows, config.model.seq_len)
    return dict(zip(("noise_scale_tokens", "noise_scale_standard_error"), found, strict=True)) if found else {}


def elsewhere_columns(
    config: TrainConfig, directory: Path, measured: Mapping[str, "Evaluation"]
) -> tuple[tuple[str, float], ...]:
    """Returns the columns of a point on other corpora: its loss on each, and by how much that is above the loss of the
    point that it began with, where that was measured there."""
    columns = {LOSS_ON + name: each.loss for name, each in measured.items()}
    if measured and (start := source_folder(config.start, directory)):
        before = read_record(start / "record.json")
        known: dict[str, Any] = {before.corpus: before.loss}
        known |= {name.removeprefix(LOSS_ON): loss for name, loss in before.factors if name.startswith(LOSS_ON)}
        columns |= {FORGOTTEN + n: each.loss - known[n] for n, each in measured.items() if known.get(n) is not None}
    return tuple(columns.items())


def run_trunk(experiment: Experiment, group: list[TrunkCell], directory: Path, stop: StopRequest) -> None:
    """Trains what is missing of a trunk or population by kleiber's own trainer, and writes the record of each point.

    Raises:
      Stopped, Diverged: as `Trunk.run`.
      Hopeless: it is cut, as the experiment asks for.
    """
    from kleiber.train.data.run_data import open_run_data
    from kleiber.train.trunk import Point, Trunk, TrunkIO
    from kleiber.train.watch.goodput import Goodput
    from kleiber.train.watch.watchdog import Watchdog

    data = open_run_data(group[0].config)
    folders = [directory / "runs" / cell.trunk_id for cell in group]
    own = directory / "runs" / group_id(group)
    logs = folders if own.name.startswith("population-") else [own]
    device = jax.devices()[0]
    common: dict[str, Any] = {**versions(), "device": f"{device.platform}:{device.device_kind}"}
    common["data_fingerprint"] = data.train.fingerprint
    common |= source_columns(group[0].config, directory)
    heads = {cell.trunk_id: ledger_head(cell, directory) for cell in group}
    last_write, judged_at = [0.0], [0]
    is_judged = experiment.pruning.over and len(group) == 1 and group[0].split == "fit"
    among = rivals(experiment, group[0]) if is_judged else []
    splices = [_splice(folder) for folder in folders]

    def on_point(point: Point) -> None:
        cell, evaluation = group[point.member], point.evaluation
        if point.num_tokens not in cell.missing(directory):
            return
        planned = cell.planned[point.num_tokens]
        epochs, num_unique = data.seen(planned.num_tokens)
        record = replace(
            planned,
            **common,
            status=("continued" if splices[point.member] else "done") if evaluation else "diverged",
            reason=point.reason or splices[point.member],
            epochs=epochs,
            num_unique_tokens=num_unique,
            factors=planned.factors + elsewhere_columns(cell.config, directory, point.elsewhere),
            loss=evaluation.loss if evaluation else None,
            loss_standard_error=evaluation.loss_standard_error if evaluation else None,
            bits_per_byte=evaluation.bits_per_byte if evaluation else None,
            wall_seconds=round(point.train_seconds, 3),
            tokens_per_second=round(point.tokens_per_second, 1),
            split_overlap=data.split_overlap,
            ledger_head=heads[cell.trunk_id],
            final_checkpoint=f"final/step_{point.num_steps}" if point.is_kept else None,
            num_validation_tokens=evaluation.num_tokens if evaluation else None,
            num_validation_bytes=data.num_validation_bytes if evaluation else None,
            **noise_columns(cell.config, logs[point.member % len(logs)], point.num_steps),
        )
        write_record(directory, cell, point.num_tokens, record)

    def on_progress(progress: dict[str, Any]) -> None:
        if not stop.has_work:  # the steps are compiled
            seal_new(cache_of_programs()[0])
        stop.has_work = True
        now = time.monotonic()
        if hosts.is_lead() and now - last_write[0] > 0.5:
            last_write[0] = now
            if group[0].shares:  # what they trained together, an equal part each
                progress = {**progress, "trained_tokens": progress["trained_tokens"] / len(group)}
            for folder in folders:
                with replacing(folder / "progress.json", is_durable=False) as partial:
                    partial.write_text(sealed_text(progress))
        percent = percent_done(group[0], progress.get("num_tokens", 0))
        if len(among) > 1 and percent > judged_at[0] and progress["segment"] == "trunk":
            judged_at[0] = percent
            if reason := why_hopeless(experiment, group[0], among, directory):
                raise Hopeless(reason)

    def is_measured(num_tokens: int) -> bool:
        return not any(num_tokens in cell.missing(directory) for cell in group)

    def is_done(place: int, num_tokens: int) -> bool:
        return num_tokens not in group[place].missing(directory)

    is_kept = group[0].split in kept_weights(experiment)[0]

    def final_folder(member: int, num_tokens: int) -> Path | None:
        return directory / "runs" / group[member].run_ids[num_tokens] / "final" if is_kept else None

    clock = Goodput(own / "goodput.jsonl" if hosts.is_lead() else None)
    stacks = "stacks.txt" if hosts.is_lead() else f"stacks-{jax.process_index()}.txt"
    watchdog = Watchdog(clock, own / stacks)
    allow, notes = allowed_fields(directory), {"ledger_heads": heads} if any(heads.values()) else {}
    sources = [source_folder(source, directory) for source in (group[0].config.start, group[0].config.teacher)]
    weights = [source and kept_weights_of(source) for source in sources]
    io = TrunkIO(
        own, logs, on_point, is_measured, on_progress, stop, clock, allow, notes, final_folder, is_done, *weights
    )
    try:
        Trunk([cell.config for cell in group], data, io).run()
    finally:
        watchdog.close()
        seal_new(cache_of_programs()[0])
