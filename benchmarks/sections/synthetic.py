"""Sweeps that never ran: as many records as asked for, drawn from a law with the noise of trunks and of points."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.config_file import to_data
from kleiber.experiments.directory.record import RunRecord, record_path, versions
from kleiber.experiments.experiment import AssumedLaw, Experiment, Target
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.files import write_json
from kleiber.model.config import ModelConfig
from kleiber.train.config import OptimizerConfig, TrainConfig

RATIOS = (3.0, 10.0, 30.0, 100.0, 300.0)
"""Tokens per parameter of a trunk's cooldown branches, so that every budget meets several ratios."""
FEW_RATIOS = (10.0, 100.0)
"""Of small sweeps, which need trunks more than branches."""
MOST_SHAPES = 24
"""Sizes of the largest sweeps; more runs are more seeds."""
LOGGED = 30
"""Lines in the step log of a trunk."""


def synthetic_experiment(count: int) -> Experiment:
    """Returns an experiment of about `count` measured points, with two targets.

    Sizes, lengths and seeds are those of a sweep that someone could run; there are as many shapes as runs can fill,
    and the rest is seeds.
    """
    ratios = RATIOS if count >= 50 else FEW_RATIOS
    num_trunks = count // len(ratios)
    shapes = _shapes(min(MOST_SHAPES, max(5, num_trunks // 4)))
    trunks = tuple(_train(shapes[index % len(shapes)], ratios, index) for index in range(num_trunks))
    largest = shapes[-1]
    targets = (
        Target("larger", _train((2 * largest[0], largest[1]), (100.0,), count)),
        Target("longer", _train(shapes[0], (3000.0,), count + 1)),
    )
    return Experiment("growth", "Does the cost of planning, fitting and reporting grow with the runs?", trunks, targets)


def _shapes(count: int) -> list[tuple[int, int]]:
    """Returns (width, layers), small to large."""
    widths = [16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512]
    return sorted(((width, layers) for width in widths for layers in (2, 4)), key=lambda s: s[0] ** 2 * s[1])[:count]


def _train(shape: tuple[int, int], ratios: tuple[float, ...], seed: int) -> TrainConfig:
    width, layers = shape
    model = ModelConfig(d_model=width, num_layers=layers, num_heads=4)
    tokens = tuple(int(ratio * 12 * layers * width**2) for ratio in ratios)
    return TrainConfig(model=model, optimizer=OptimizerConfig(learning_rate=0.008), num_tokens=tokens, seed=seed)


def synthetic_records(experiment: Experiment, seed: int = 0) -> list[RunRecord]:
    """Returns a finished record of every fitted point: losses of the experiment's assumed law and noise.

    Args:
      experiment: of `synthetic_experiment`.
      seed: of the noise; equal seeds give equal losses.
    """
    law, rng = experiment.assumed, np.random.default_rng(seed)
    common: dict[str, Any] = {**versions(), "device": "cpu:cpu", "data_fingerprint": "0123456789abcdef"}
    records = []
    for cell in trunk_cells(experiment, "fit"):
        shift = law.trunk_noise * rng.standard_normal()
        for planned in cell.planned.values():
            noise = shift + law.point_noise * rng.standard_normal()
            loss = _loss(law, planned.num_params_total, planned.num_tokens) * float(np.exp(noise))
            measured: dict[str, Any] = {
                "status": "done",
                "epochs": 1.0,
                "num_unique_tokens": planned.num_tokens,
                "loss": loss,
                "loss_standard_error": 0.004,
                "bits_per_byte": loss / float(np.log(2)),
                "wall_seconds": round(planned.flops / 3e10, 3),
                "tokens_per_second": round(3e10 * planned.num_tokens / planned.flops, 1),
            }
            records.append(replace(planned, **common, **measured))
    return records


def _loss(law: AssumedLaw, num_params: float, num_tokens: float) -> float:
    return law.E + law.A / num_params**law.alpha + law.B / num_tokens**law.beta


def write_sweep(directory: Path, experiment: Experiment, records: list[RunRecord]) -> None:
    """Writes what workers leave behind: the experiment, a record for each run, a step log for each trunk."""
    write_json(directory / "experiment.json", to_data(experiment))
    lengths: dict[str, tuple[int, int]] = {}
    for record in records:
        path = record_path(directory, record.run_id)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record.to_json(), indent=1))
        longest = max(record.num_tokens, lengths.get(record.trunk_id, (0, 0))[0])
        lengths[record.trunk_id] = (longest, record.num_params_total)
    for trunk, (num_tokens, num_params) in lengths.items():
        folder = directory / "runs" / trunk
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(_step_log(experiment.assumed, num_params, num_tokens))
        seconds = {"steps": 8.0, "compile": 1.0, "evaluate": 0.5, "save": 0.2, "data": 0.1, "other": 1.0}
        launch = {"launch": "1-0", "time": 1.7e9, **seconds, "lost": 0.0, "waiting": 0.0}
        (folder / "goodput.jsonl").write_text(json.dumps(launch) + "\n")


def _step_log(law: AssumedLaw, num_params: int, num_tokens: int) -> str:
    rows: list[dict[str, Any]] = []
    for index in range(1, LOGGED + 1):
        seen = int(num_tokens * index / LOGGED)
        loss = _loss(law, num_params, seen)
        rows.append({"step": 64 * index, "num_tokens": seen, "segment": "trunk", "loss": loss})
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_csv(path: Path, records: list[RunRecord]) -> None:
    """Writes what somebody else's sweep would look like: sizes, tokens, loss and a name for each run."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "params", "tokens", "val_loss", "lr"])
        for r in records:
            writer.writerow([r.run_id, r.num_params_total, r.num_tokens, r.loss, r.learning_rate])
