"""What the finished runs must be like that a trunk builds on: its start, of the same shape and tokenizer, and its
teacher, of the same tokenizer. Needs no jax."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from kleiber.fields import from_data
from kleiber.files import read_json
from kleiber.model.config import ModelConfig

FREE = ("dropout", "param_dtype", "compute_dtype", "has_float8_products", "has_remat", "remat_keeps") + (
    *("attention_blocks", "attention_kernel", "compression", "adapter"),
)
"""Fields of a model in which it may differ from the one that it begins with."""


def kept_weights_of(run: str | Path, called: str = "start") -> Path:
    """Returns the folder of the weights that a measured point kept. Raises ValueError: there are none; says why."""
    try:
        record = read_json(Path(run) / "record.json")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{called}.run {run} is no measured point; give the folder of one, such as out/NAME/runs/RUN-D1000000."
        ) from None
    if not record.get("final_checkpoint"):
        found = record["status"] if record["status"] != "done" else "done, and kept no weights (Experiment.keep_final)"
        raise ValueError(f"{called}.run {run} has no weights: it is {found}.")
    return Path(run) / record["final_checkpoint"]


def weights_digest(folder: Path) -> str:
    """Returns 16 hexadecimal digits that change with any number of the weights of a folder, as its manifest names them
    (which load_arrays checks)."""
    arrays = json.loads((folder / "manifest.json").read_bytes())["arrays"]
    return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()[:16]


def check_finished(source: Any) -> None:
    """Checks a StartConfig or a TeacherConfig, and fills in the digest of its run where it is left out. Raises
    ValueError."""
    called = source.called
    if (source.run is None) == (source.train is None):
        raise ValueError(
            f"{called} needs either run, the folder of a measured point, or train, a trunk to train first."
        )
    if source.run is not None:
        if source.num_tokens is not None:
            raise ValueError(f"{called}.num_tokens {source.num_tokens} with {called}.run, which is one point already.")
        if not source.digest:
            object.__setattr__(source, "digest", weights_digest(kept_weights_of(source.run, called)))
        return
    if source.length not in source.train.num_tokens:
        found = source.train.num_tokens
        raise ValueError(f"{called}.num_tokens {source.num_tokens} is none of those of train: {found}.")
    first = [each for each in (source.train.start, source.train.teacher) if each and each.train]
    if source.train.command or (first and called != "start"):  # starts follow each other in stages
        what = "is trained by a command" if source.train.command else f"has a {first[0].called} to be trained itself"
        raise ValueError(f"{called}.train {what}; train that first, and give its run.")


def fill_in_teacher(teacher: Any) -> None:
    """Fills in the shape and the tokenizer of a TeacherConfig where they are left out. Raises ValueError."""
    if teacher.train is not None:
        model, tokenizer = teacher.train.model, teacher.train.data.tokenizer
    elif teacher.model is None or not teacher.tokenizer:
        trunk = read_json(Path(teacher.run) / "config.json")["trunk"]
        model, tokenizer = from_data(ModelConfig, trunk["model"]), trunk["data"]["tokenizer"]
    else:
        return
    object.__setattr__(teacher, "model", model)
    object.__setattr__(teacher, "tokenizer", tokenizer)


def difference(before: Any, after: Any) -> str:
    """Returns why a trunk cannot begin with the weights of another, naming the field; nothing if it can."""
    for field in fields(after.model):
        old, new = getattr(before.model, field.name), getattr(after.model, field.name)
        is_free = field.name in FREE or (field.name == "seq_len" and after.model.positions != "learned")
        if old != new and not is_free:
            return f"model.{field.name} {old!r}, and this run {new!r}: a start has the same shape; set it to {old!r}"
    begun = after.model.ranks() if after.compressed_from == "start" else {}
    if before.model.ranks() != begun:
        return (
            f"ranks {before.model.ranks() or 'of whole matrices'}, and this run begins with {begun or 'whole ones'}: "
            f"set compression.rank_share, factored and compressed_from so that it begins as the start ended"
        )
    if before.data.tokenizer != after.data.tokenizer:
        old, new = before.data.tokenizer, after.data.tokenizer
        return f"data.tokenizer {old!r}, and this run {new!r}: its table is of other tokens; set it to {old!r}"
    if before.model.adapter is not None:
        return "model.adapter beside its weights: merge it first (kleiber export --form merged), or begin without"
    return ""


def check_fine_tuning(config: Any) -> None:
    """Checks what a TrainConfig says of its start and of the weights that move. Raises ValueError."""
    start, adapter = config.start, config.model.adapter
    if not config.trainable.strip():
        raise ValueError("trainable is empty, so that no weight would move; expected all, head, or patterns of paths.")
    if (adapter or config.trainable != "all") and config.delayed_sync:
        raise ValueError("delayed_sync moves all weights of all replicas; set trainable='all' and model.adapter=None.")
    if start is None:
        return
    if config.command or config.initialisation == "device":
        field = "command, which begins as its own program does" if config.command else "initialisation='device'"
        raise ValueError(f"start with {field}; leave one of them out.")
    if start.train and (problem := difference(start.train, config)):
        raise ValueError(f"the start has {problem}.")


def check_teacher(config: Any) -> None:
    """Checks that the teacher of a TrainConfig can tell what it should learn. Raises ValueError."""
    teacher, model = config.teacher, config.model
    if teacher is None:
        return
    shape = teacher.model
    if teacher.tokenizer != config.data.tokenizer or shape.vocab_size != model.vocab_size:
        raise ValueError(
            f"the teacher reads text by the tokenizer '{teacher.tokenizer}' ({shape.vocab_size} ids), this run by "
            f"'{config.data.tokenizer}' ({model.vocab_size} ids): its probabilities are of other tokens; give a "
            f"teacher of this tokenizer."
        )
    if shape.is_causal != model.is_causal:
        raise ValueError(
            f"the teacher is a model of family '{shape.family}', and this run one of '{model.family}': they predict "
            f"unlike things; give a teacher of the same family."
        )
    if shape.positions == "learned" and shape.seq_len < model.seq_len:
        raise ValueError(
            f"the teacher has learned positions for {shape.seq_len} tokens, and this run rows of {model.seq_len}; set "
            f"model.seq_len to at most {shape.seq_len}."
        )
    if config.command or config.mesh.stage > 1:
        what = "command, which trains as its own program does" if config.command else "a pipeline (mesh.stage)"
        raise ValueError(f"teacher with {what}; leave one of them out.")
