"""A folder of Hugging Face's as a run: what eval, generate, export and a start take, without any training in it."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.config_file import to_data
from kleiber.experiments.directory.record import CONVERTED, planned_records, versions
from kleiber.experiments.exchange.huggingface_folder import PIECES, Folder, read_huggingface
from kleiber.experiments.exchange.tokenizer_files import is_of_bytes
from kleiber.files import json_of, read_plain, write_json
from kleiber.model.config import Dtype
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.tokenizers import UNKNOWN, SentencePieceTokenizer


def convert(folder: Path, out: Path, seq_len: int | None = None) -> Folder:
    """Writes the run; returns what was read.

    Args:
      folder: as transformers' save_pretrained writes it.
      out: of the run, made here; whole or not at all.
      seq_len: its context, where it should be less than that of the folder.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: out is there already, or the folder is damaged or of a model that kleiber has no counterpart of.
    """
    if out.exists():
        raise ValueError(f"{out} is there already; choose another place, or remove it.")
    found = read_huggingface(folder, seq_len)
    tokenizer, pieces = _tokenizer(folder, found)
    dtype: Dtype = "bfloat16" if {str(array.dtype) for array in found.arrays.values()} == {"bfloat16"} else "float32"
    model = replace(found.config, param_dtype=dtype)
    config = TrainConfig(
        model,
        OptimizerConfig(1.0),  # it is not trained here
        num_tokens=(model.seq_len * 4,),
        data=DataConfig("unknown", tokenizer),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, out.name, config, found, pieces)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return found


def _write(place: Path, name: str, config: TrainConfig, found: Folder, pieces: bytes) -> None:
    """Writes a measured point's folder, but for the measurement."""
    from kleiber.train.checkpoints.checkpoint import save, tree_of
    from kleiber.train.checkpoints.manifest import np_dtype

    dtype = np_dtype(config.model.param_dtype)
    kept: dict[str, Any] = {"params": tree_of({path: array.astype(dtype) for path, array in found.arrays.items()})}
    if pieces:
        kept["tokenizer_model"] = np.frombuffer(pieces, np.uint8)
    told = {"architecture": found.architecture.name}
    save(place / "final", 0, kept, told)
    write_json(place / "config.json", {"num_tokens": 0, "trunk": to_data(config)})
    (planned,) = planned_records(CONVERTED, CONVERTED, config).values()
    columns: dict[str, Any] = {
        **versions(),
        **{"trunk_id": name, "run_id": f"{name}-D0", "status": CONVERTED, "reason": f"a {found.architecture.name}"},
        **{"num_tokens": 0, "num_steps": 0, "flops": 0.0, "flops_6nd": 0.0, "tokens_per_parameter": 0.0},
        **{"learning_rate": 0.0, "optimizer": "unknown", "weight_decay": 0.0, "schedule": "unknown"},
        "final_checkpoint": "final/step_0",
    }
    write_json(place / "record.json", replace(planned, **columns).to_json())


def _tokenizer(folder: Path, found: Folder) -> tuple[str, bytes]:
    """Returns (name of the tokenizer, its SentencePiece model); UNKNOWN for any that kleiber has not."""
    if (folder / PIECES).is_file():
        pieces = read_plain(folder / PIECES)
        try:
            tokenizer = SentencePieceTokenizer(pieces)
        except RuntimeError:
            raise ValueError(f"{folder / PIECES} is no SentencePiece model; fetch it again, or remove it.") from None
        return (tokenizer.name, pieces) if tokenizer.vocab_size <= found.config.vocab_size else (UNKNOWN, b"")
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            content = json_of(read_plain(path))
        except (ValueError, RecursionError) as problem:
            raise ValueError(f"{path} is not whole JSON ({problem}); fetch it again, or remove it.") from None
        if is_of_bytes(content) and found.config.vocab_size == 256:
            return "bytes", b""
    return UNKNOWN, b""
