"""What a start must be like: a measured point with weights, of the same shape and tokenizer. Needs no jax."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from kleiber.files import read_json

FREE = ("dropout", "param_dtype", "compute_dtype", "has_float8_products", "has_remat", "remat_keeps") + (
    *("attention_blocks", "attention_kernel", "compression", "adapter"),
)
"""Fields of a model in which it may differ from the one that it begins with."""


def kept_weights_of(run: str | Path) -> Path:
    """Returns the folder of the weights that a measured point kept. Raises ValueError: there are none; says why."""
    try:
        record = read_json(Path(run) / "record.json")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"start.run {run} is no measured point; give the folder of one, such as out/NAME/runs/RUN-D1000000."
        ) from None
    if not record.get("final_checkpoint"):
        found = record["status"] if record["status"] != "done" else "done, and kept no weights (Experiment.keep_final)"
        raise ValueError(f"start.run {run} has no weights to begin with: it is {found}.")
    return Path(run) / record["final_checkpoint"]


def weights_digest(folder: Path) -> str:
    """Returns 16 hexadecimal digits that change with any number of the weights of a folder, as its manifest names them
    (which load_arrays checks)."""
    arrays = json.loads((folder / "manifest.json").read_bytes())["arrays"]
    return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()[:16]


def check_start(start: Any) -> None:
    """Checks a StartConfig, and fills in the digest of its run where it is left out. Raises ValueError."""
    if (start.run is None) == (start.train is None):
        raise ValueError("start needs either run, the folder of a measured point, or train, a trunk to train first.")
    if start.run is not None:
        if start.num_tokens is not None:
            raise ValueError(f"start.num_tokens {start.num_tokens} with start.run, which is one point already.")
        if not start.digest:
            object.__setattr__(start, "digest", weights_digest(kept_weights_of(start.run)))
        return
    if start.length not in start.train.num_tokens:
        raise ValueError(f"start.num_tokens {start.num_tokens} is none of those of train: {start.train.num_tokens}.")
    if start.train.command or (start.train.start and start.train.start.train):
        what = "is trained by a command" if start.train.command else "has a start to be trained itself"
        raise ValueError(f"start.train {what}; train that first, and give its run.")


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
