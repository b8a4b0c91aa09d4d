"""The run record: one measured point with everything needed to use it later; all of them are one Parquet table."""

import importlib.metadata
import math
import platform
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kleiber.collector import collector_paused
from kleiber.experiments.config_file import config_hash
from kleiber.experiments.directory.release import PACKAGES
from kleiber.files import read_json, replacing
from kleiber.model.counts import num_params_active, num_params_non_embedding, num_params_total
from kleiber.train.config import DataConfig, FinishedRun, TrainConfig
from kleiber.train.levels import flops_of, plateau
from kleiber.train.trained import moves_all, num_params_trained
from kleiber.train.update.exchanged_bytes import exchanged_bytes

TIMING_COLUMNS = ("wall_seconds", "tokens_per_second", "ledger_head")
"""The only columns that may differ between two runs of one experiment on one machine."""
LOST = ("failed", "diverged", "pruned")
"""How a point may end without a loss; `pruned`: cut early as hopeless, by the experiment's pruning."""
STATUSES = ("done", *LOST, "continued", "pending")
"""`continued`: measured, but trained for a part by another config (--allow): no run of its own, and in no fit."""

LOSS_ON, FORGOTTEN = "loss_on.", "forgotten_on."
"""Before the name of a corpus: columns of a run that is measured on others besides (evaluation.also)."""
OF_COMMAND = "of the command"
"""The corpus of a run that a program of the user's trains."""
CONVERTED = "converted"
"""Status of a run whose weights were read of a folder of others, and not measured: never one of a sweep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One point, planned or measured: a field is a column of record.json and table.parquet, in their order."""

    run_id: str
    """Name of the point and its folder: that of its trunk and the tokens asked for."""
    trunk_id: str
    """Name of the trunk, whose points share noise; levels that set in later bear the name of the dense one."""
    experiment: str
    """Name of the experiment."""
    split: str
    """`fit`, `target`, `start` (trained for others to begin with) or `pilot`."""
    target: str
    """Name of the target, in split `target`; else empty."""
    status: str
    """One of STATUSES, or CONVERTED."""
    reason: str
    """Why it failed, diverged, was cut, or is no run of its own config; else empty."""
    family: str
    """Parametrisation and number of layers: runs that a ladder of widths may compare."""
    d_model: int
    """Model width."""
    num_layers: int
    """Blocks of the model."""
    num_params_total: int
    """All trainable parameters, embeddings included."""
    num_params_non_embedding: int
    """Without the embeddings."""
    num_params_active: int
    """Those that a token passes: fewer than all in a mixture of experts."""
    num_tokens: int
    """Training tokens up to the point, in whole steps, repeats included."""
    num_steps: int
    """Optimizer steps up to the point."""
    batch_size: int
    """Sequences a step, over all devices."""
    seq_len: int
    """Tokens of a sequence."""
    vocab_size: int
    """Rows of the embedding."""
    flops: float
    """Training FLOPs, counted (model/counts.py)."""
    flops_6nd: float
    """Training FLOPs by the rule 6 x num_params_total x num_tokens."""
    num_params_trained: int | None = None
    """Parameters that move, where some stay as they are; this and the next four are of fine-tuning."""
    start_run: str | None = None
    """Name of the point whose weights it began with, or their folder."""
    teacher_run: str | None = None
    """Name of the point that it learned from, or its folder."""
    exchanged_bytes: int | None = None
    """That each replica sends for gradients or synchronisation; None in a record older than the column."""
    tokens_per_parameter: float
    """num_tokens over num_params_total."""
    seed: int
    """Of the initial weights and of the data order."""
    learning_rate: float
    """At the base shape."""
    optimizer: str
    """Its name."""
    weight_decay: float
    """Of the optimizer."""
    schedule: str
    """Kind of learning-rate schedule."""
    corpus: str
    """Of the training text."""
    tokenizer: str
    """Its name."""
    config_hash: str
    """12 hexadecimal digits of the trunk's whole config."""
    dtype: str
    """Of the arithmetic."""
    factors: tuple[tuple[str, float | str | None], ...] = ()
    """What else the experiment varies, (name, level) each: a column of its own for each, here in the order."""
    code_version: str | None = None
    """Of kleiber; this and all below are None, and not written, where nothing was trained."""
    python_version: str | None = None
    jax_version: str | None = None
    jaxlib_version: str | None = None
    flax_version: str | None = None
    optax_version: str | None = None
    orbax_checkpoint_version: str | None = None
    numpy_version: str | None = None
    device: str | None = None
    """Platform and kind."""
    data_fingerprint: str | None = None
    """Corpus, tokenizer and a digest of the text: equal for equal data only."""
    epochs: float | None = None
    """Passes over the training tokens."""
    num_unique_tokens: int | None = None
    """Distinct training tokens seen."""
    loss: float | None = None
    """Mean nats per target token on the validation windows; None if the run diverged."""
    loss_standard_error: float | None = None
    """Nats per token, from the spread over groups of documents."""
    bits_per_byte: float | None = None
    """The loss in bits per byte of validation text."""
    wall_seconds: float | None = None
    """Seconds of training the shared part and this branch since the last resume, without evaluation."""
    tokens_per_second: float | None = None
    """Of training."""
    split_overlap: float | None = None
    """Share of the validation text that also stands in the training text; None where nobody measured it."""
    ledger_head: str | None = None
    """Last hash of the ledger when a target began, which fixes every line up to it; None for other runs."""
    final_checkpoint: str | None = None
    """Folder of the measured weights, in that of the point; None where they were not kept."""
    num_validation_tokens: int | None = None
    """Targets that the loss is the mean of: fewer than asked where the text holds no more."""
    num_validation_bytes: int | None = None
    """Bytes of text that they stand for; the same for all runs of a sweep over tokenizers."""
    pretrained_tokens: int | None = None
    """Training tokens of the point whose weights it began with."""
    pretrained_params: int | None = None
    """All parameters of that point."""
    pretrained_loss: float | None = None
    """Its loss, on its own validation text."""
    noise_scale_tokens: float | None = None
    """Gradient noise scale over the last half of the steps at the plateau, where the config measures it."""
    noise_scale_standard_error: float | None = None
    """Of it, in tokens."""
    teacher_params: int | None = None
    """All parameters of the point that it learned from."""
    teacher_run_loss: float | None = None
    """The loss of that point, on its own validation text."""
    program_fingerprint: str | None = None
    """Of the files that its command named when it began: a run of kleiber's own trainer has none."""

    def to_json(self) -> dict[str, Any]:
        """Returns the columns by name, as record.json and a row of table.parquet hold them."""
        row = {name: getattr(self, name) for name in _PLANNED} | dict(self.factors)
        measured = {name: getattr(self, name) for name in _MEASURED}
        if any(value is not None for value in measured.values()):
            row |= measured
        return {name: value for name, value in row.items() if value is not None or name not in _LATER}

    @classmethod
    def from_json(cls, data: Any, path: Path) -> "RunRecord":
        """Returns the record that to_json wrote, now or in an older release; further columns count as factors.

        Raises:
          ValueError: it is none; names the file, the field, what it holds and what was expected.
        """
        if problem := record_problem(data):
            raise ValueError(f"{path}: {problem}; remove the file to have that point measured again.")
        known = {name: data[name] for name in _KINDS if name in data}
        return cls(**known, factors=tuple((name, value) for name, value in data.items() if name not in known))


def _kinds(hint: Any) -> tuple[type, ...]:
    """Returns what JSON may hold for a field of this type: a whole number is a float too."""
    kinds = typing.get_args(hint) or (hint,)
    return (*kinds, int) if float in kinds else kinds


_NAMES = [field.name for field in fields(RunRecord)]
_PLANNED = _NAMES[: _NAMES.index("factors")]
_MEASURED = _NAMES[_NAMES.index("factors") + 1 :]
_LATER = (
    *("exchanged_bytes", "split_overlap", "ledger_head", "final_checkpoint"),
    *("num_validation_tokens", "num_validation_bytes", "num_params_trained", "start_run"),
    *("pretrained_tokens", "pretrained_params", "pretrained_loss", "teacher_run", "teacher_params", "teacher_run_loss"),
    *("noise_scale_tokens", "noise_scale_standard_error", "program_fingerprint"),
)
"""Columns that came after release 0.1: left out where they say nothing, so that an old record stays as it was."""
_KINDS = {name: _kinds(hint) for name, hint in typing.get_type_hints(RunRecord).items() if name != "factors"}


def record_problem(data: Any) -> str:
    """Returns why data is no run record, such as `seed is "x", expected int`; nothing if it is one."""
    if not isinstance(data, dict):
        return f"it holds {type(data).__name__}, expected the columns of a run record"
    for name, kinds in _KINDS.items():
        value = data.get(name)
        if name not in data and type(None) not in kinds:
            return f"it has no {name}"
        if value is None and type(None) in kinds:
            continue
        if not isinstance(value, kinds) or isinstance(value, bool):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            return f"{name} is {str(value)[:60]!r}, expected {expected}"
    for name, value in data.items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return f"{name[:60]} has more than 63 bits, which no table holds"
        if name not in _KINDS and isinstance(value, dict | list):
            return f"{name[:60]} is {str(value)[:60]!r}, expected a number or text"
    if data["status"] not in (*STATUSES, CONVERTED):
        return f"its status is {data['status'][:60]!r}, expected one of {', '.join(STATUSES)}"
    loss = data.get("loss")
    if data["status"] == "done" and (loss is None or not 0 <= loss < math.inf):
        return f"it is done, and its loss is {loss!r}"
    return ""


def cell_problem(record: RunRecord, planned: RunRecord) -> str:
    """Returns why a record is not that of its cell, such as `num_tokens is 5, its config says 6`; nothing if it is.

    Args:
      record: as read.
      planned: of the cell, from `planned_records`.
    """
    if record.status == "pending":
        return "its status is 'pending', and a record is written once there is an end"
    free = ("experiment", "status", "reason", *(name for name in _LATER if getattr(record, name) is None))
    found, expected = (
        {n: getattr(r, n) for n in _PLANNED if n not in free} | dict(r.factors) for r in (record, planned)
    )
    wrong = next((name for name in expected if name in found and found[name] != expected[name]), "")
    return wrong and f"{wrong} is {str(found.get(wrong))[:60]!r}, its config says {expected[wrong]!r}"


def trunk_id(config: TrainConfig) -> str:
    """Returns the name of a trunk: its shape, seed and a hash of its whole config."""
    return f"d{config.model.d_model}-L{config.model.num_layers}-s{config.seed}-{config_hash(config)[:6]}"


def source_name(source: FinishedRun | None) -> str | None:
    """Returns the name of the point that a trunk begins with or learns from, or its folder; None where it is none."""
    if source is None:
        return None
    return f"{trunk_id(source.train)}-D{source.length}" if source.train else source.run


def source_folder(source: FinishedRun | None, directory: Path) -> Path | None:
    """Returns the folder of the point that a trunk of a sweep begins with or learns from; None where it is none."""
    name = source_name(source)
    return None if name is None or source is None else Path(source.run or directory / "runs" / name)


def source_columns(config: TrainConfig, directory: Path) -> dict[str, Any]:
    """Returns what a record says of the points that its trunk began with and learned from."""
    columns: dict[str, Any] = {}
    if start := source_folder(config.start, directory):
        found = read_record(start / "record.json")
        columns |= {"pretrained_tokens": found.num_tokens, "pretrained_params": found.num_params_total}
        columns["pretrained_loss"] = found.loss
    if teacher := source_folder(config.teacher, directory):
        found = read_record(teacher / "record.json")
        columns |= {"teacher_params": found.num_params_total, "teacher_run_loss": found.loss}
    return columns


def planned_records(experiment: str, split: str, config: TrainConfig, target: str = "") -> dict[int, RunRecord]:
    """Returns the record of every point of a trunk before anything runs, by the tokens asked for.

    Args:
      experiment: name of the experiment.
      split: `fit`, `target`, `start` or `pilot`.
      config: the trunk.
      target: name of the target, for split `target`.
    """
    model, name, command = config.model, trunk_id(config), config.command
    total = counted = num_params_total(model)
    if command and command.num_params_total:
        total = command.num_params_total
    non_embedding = total - counted + num_params_non_embedding(model)
    if command and command.num_params_non_embedding:
        non_embedding = command.num_params_non_embedding
    reads_corpus = not command or config.data != DataConfig() or "corpus" in command.names
    shared: dict[str, Any] = {
        "trunk_id": trunk_id(plateau(config)),
        "experiment": experiment,
        "split": split,
        "target": target,
        "status": "pending",
        "reason": "",
        "family": f"{model.parametrization}-L{model.num_layers}",
        "d_model": model.d_model,
        "num_layers": model.num_layers,
        "num_params_total": total,
        "num_params_non_embedding": non_embedding,
        "num_params_active": num_params_active(model) if total == counted else total,
        "batch_size": config.batch_size,
        "seq_len": model.seq_len,
        "vocab_size": model.vocab_size,
        "seed": config.seed,
        "learning_rate": config.optimizer.learning_rate,
        "optimizer": config.optimizer.name,
        "weight_decay": config.optimizer.weight_decay,
        "schedule": config.schedule.kind,
        "corpus": config.data.corpus if reads_corpus else OF_COMMAND,
        "tokenizer": config.data.tokenizer,
        "config_hash": config_hash(config),
        "dtype": model.compute_dtype,
        "num_params_trained": None if moves_all(config) and not config.start else num_params_trained(config),
        "start_run": source_name(config.start),
        "teacher_run": source_name(config.teacher),
        "factors": config.factors,
    }
    records = {}
    for num_tokens in config.num_tokens:
        num_steps = config.steps_at(num_tokens)
        trained = num_steps * config.tokens_per_step  # whole steps
        records[num_tokens] = RunRecord(
            **shared,
            run_id=f"{name}-D{num_tokens}",
            num_tokens=trained,
            num_steps=num_steps,
            flops=flops_of(config, num_tokens) if total == counted else 6.0 * total * trained,
            flops_6nd=6.0 * total * trained,
            exchanged_bytes=None if command else exchanged_bytes(config, num_steps),
            tokens_per_parameter=trained / total,
        )
    return records


def versions() -> dict[str, str]:
    """Returns the versions a number can depend on, by column."""
    found = {f"{name.replace('-', '_')}_version": importlib.metadata.version(name) for name in PACKAGES}
    return {"code_version": found.pop("kleiber_version"), "python_version": platform.python_version(), **found}


def record_path(directory: Path, name: str) -> Path:
    """Returns where the record of a run is kept in a sweep directory."""
    return directory / "runs" / name / "record.json"


def read_record(path: Path) -> RunRecord:
    """Returns the record of a file.

    Raises:
      ValueError: it is damaged, or none; says which file, and what is wrong.
    """
    return RunRecord.from_json(read_json(path), path)


@collector_paused()
def read_records(directory: Path) -> list[RunRecord]:
    """Returns every run record of a sweep directory, by run id.

    Raises:
      ValueError: one is damaged, or none; says which file, and what is wrong.
    """
    return [read_record(path) for path in sorted((directory / "runs").glob("*/record.json"))]


def record_columns(records: list[RunRecord]) -> dict[str, list[Any]]:
    """Returns the records as columns: the union of theirs in order of appearance, None where a record has no value; a
    factor of numbers and texts is all text."""
    rows = [record.to_json() for record in records]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    for name, values in columns.items():
        if len({isinstance(each, str) for each in values if each is not None}) > 1:
            columns[name] = [each if each is None else str(each) for each in values]
    return columns


def write_table(directory: Path, records: list[RunRecord]) -> None:
    """Writes table.parquet, whole and sealed, from records; without any there is none, for it would have no columns."""
    if not records:
        (directory / "table.parquet").unlink(missing_ok=True)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kleiber.scaling.table.reading import seal_table

    table = seal_table(pa.table(record_columns(records)))
    with replacing(directory / "table.parquet") as partial:
        pq.write_table(table, partial)
