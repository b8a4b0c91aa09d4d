"""The run record: one measured point with everything needed to use it later; all of them are one Parquet table."""

import contextlib
import gc
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kleiber.experiments.config_file import config_hash
from kleiber.model.counts import (
    num_params_active,
    num_params_non_embedding,
    num_params_total,
    training_flops,
)
from kleiber.train.config import TrainConfig
from kleiber.train.update.exchanged_bytes import exchanged_bytes

TIMING_COLUMNS = ("wall_seconds", "tokens_per_second")
"""The only columns that may differ between two runs of one experiment on one machine."""


def trunk_id(config: TrainConfig) -> str:
    """Returns the name of a trunk: its shape, seed and a hash of its whole config."""
    return f"d{config.model.d_model}-L{config.model.num_layers}-s{config.seed}-{config_hash(config)[:6]}"


def planned_record(experiment: str, split: str, config: TrainConfig, num_tokens: int, target: str = "") -> dict:
    """Returns the part of a run record that is known before anything runs.

    Args:
      experiment: name of the experiment.
      split: `fit`, `target` or `pilot`.
      config: the trunk.
      num_tokens: tokens asked for at this point; recorded as the whole steps that are trained.
      target: name of the target, for split `target`.
    """
    return point_record(trunk_columns(experiment, split, config, target), config, num_tokens)


def trunk_columns(experiment: str, split: str, config: TrainConfig, target: str = "") -> dict[str, Any]:
    """Returns the planned record of a trunk: what its points have in common, and None where they differ."""
    model = config.model
    return {
        "run_id": None,
        "trunk_id": trunk_id(config),
        "experiment": experiment,
        "split": split,
        "target": target,
        "status": "pending",
        "reason": "",
        "family": f"{model.parametrization}-L{model.num_layers}",
        "d_model": model.d_model,
        "num_layers": model.num_layers,
        "num_params_total": num_params_total(model),
        "num_params_non_embedding": num_params_non_embedding(model),
        "num_params_active": num_params_active(model),
        "num_tokens": None,
        "num_steps": None,
        "batch_size": config.batch_size,
        "seq_len": model.seq_len,
        "vocab_size": model.vocab_size,
        "flops": None,
        "flops_6nd": None,
        "exchanged_bytes": None,
        "tokens_per_parameter": None,
        "seed": config.seed,
        "learning_rate": config.optimizer.learning_rate,
        "optimizer": config.optimizer.name,
        "weight_decay": config.optimizer.weight_decay,
        "schedule": config.schedule.kind,
        "corpus": config.data.corpus,
        "tokenizer": config.data.tokenizer,
        "config_hash": config_hash(config),
        "dtype": model.compute_dtype,
        **dict(config.factors),
    }


def point_record(columns: dict[str, Any], config: TrainConfig, num_tokens: int) -> dict[str, Any]:
    """Returns the planned record of one point of a trunk, from its `trunk_columns`."""
    num_steps, total = config.steps_at(num_tokens), columns["num_params_total"]
    trained = num_steps * config.tokens_per_step
    return {
        **columns,
        "run_id": f"{columns['trunk_id']}-D{num_tokens}",
        "num_tokens": trained,
        "num_steps": num_steps,
        "flops": training_flops(config.model, trained),
        "flops_6nd": 6.0 * total * trained,
        "exchanged_bytes": exchanged_bytes(config, num_steps),
        "tokens_per_parameter": trained / total,
    }


def versions() -> dict[str, str]:
    """Returns the versions a number can depend on."""
    packages = ("kleiber", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {f"{name.replace('-', '_')}_version": importlib.metadata.version(name) for name in packages}
    return {"code_version": found.pop("kleiber_version"), "python_version": platform.python_version(), **found}


def write_json(path: Path, data: Any) -> None:
    """Writes data as JSON durably and whole: a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "w") as file:
        json.dump(data, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """Returns the JSON of path.

    Raises:
      ValueError: the file is damaged; says which.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as problem:
        raise ValueError(f"{path} is not whole JSON ({problem}); remove it to have that part done again.") from None


def record_path(directory: Path, name: str) -> Path:
    """Returns where the record of a run is kept in a sweep directory."""
    return directory / "runs" / name / "record.json"


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pauses the search for reference cycles while very many records are made, of which none is garbage.

    Each record that is kept makes the search look at all those before it again: half of the time of reading 100,000.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@collector_paused()
def read_records(directory: Path) -> list[dict[str, Any]]:
    """Returns every run record of a sweep directory, by run id."""
    return [read_json(path) for path in sorted((directory / "runs").glob("*/record.json"))]


def write_table(directory: Path, records: list[dict[str, Any]]) -> Path:
    """Writes table.parquet from records and returns its path. Columns are the union, in order of appearance."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(name for record in records for name in record))
    table = pa.table({name: [record.get(name) for record in records] for name in columns})
    path = directory / "table.parquet"
    partial = path.with_suffix(f".partial{os.getpid()}")
    pq.write_table(table, partial)
    os.replace(partial, path)
    return path
