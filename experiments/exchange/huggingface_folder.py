"""A model as the folder that transformers.AutoModelForCausalLM.from_pretrained opens, and such a folder as a model.

config.json is written last, and an older one goes first: without it a folder is no model to anybody.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.exchange.architectures import Architecture
from kleiber.experiments.exchange.huggingface_config import architecture_of, config_json, model_of
from kleiber.experiments.exchange.huggingface_weights import arrays_of, tensors_of
from kleiber.experiments.exchange.plain_form import Arrays, plain_form
from kleiber.experiments.exchange.safetensors_file import read_safetensors, write_safetensors
from kleiber.experiments.exchange.tokenizer_files import separator_of, tokenizer_files
from kleiber.files import json_of, read_plain, write_whole
from kleiber.model.config import ModelConfig
from kleiber.train.config import TrainConfig
from kleiber.train.data.tokenizers import SentencePieceTokenizer, Tokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PIECES = "tokenizer.model"
"""A SentencePiece model, under the name that others give it."""
RUNS_CODE = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class Folder:
    """What was read of a folder."""

    architecture: Architecture
    config: ModelConfig
    """Of a plain form."""
    arrays: Arrays
    """By path, in the dtype of the file."""
    told: dict[str, Any]
    """Its config.json."""


def write_huggingface(folder: Path, config: TrainConfig, tree: Any, tokenizer: Tokenizer) -> Path:
    """Writes the folder; returns the file of its weights.

    Args:
      folder: made if it is missing.
      config: of the run.
      tree: its weights.
      tokenizer: of the run.

    Raises:
      ValueError: a field of the model has no counterpart, and nothing was written; names it.
    """
    plain, separator = plain_form(config.model, tree), separator_of(tokenizer)
    found = architecture_of(plain.config)
    told = config_json(plain.config, str(plain.arrays["input/embedding"].dtype), separator)
    tensors = tensors_of(found, plain.config, plain.arrays)
    files = tokenizer_files(tokenizer, not config.data.document_attention, config.model.seq_len)
    files["generation_config.json"] = (
        json.dumps({"bos_token_id": separator, "eos_token_id": separator}, indent=1) + "\n"
    )
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give a folder to write {CONFIG} and {WEIGHTS} into.")
    for name in (CONFIG, INDEX):
        (folder / name).unlink(missing_ok=True)
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
    if isinstance(tokenizer, SentencePieceTokenizer):
        write_whole(folder / PIECES, tokenizer.model)
    for name, content in files.items():
        write_whole(folder / name, content)
    write_whole(folder / CONFIG, json.dumps(told, indent=1) + "\n")
    return folder / WEIGHTS


def read_huggingface(folder: Path, seq_len: int | None = None) -> Folder:
    """Returns the model of a folder.

    Args:
      folder: with config.json, and the weights in model.safetensors or the files of model.safetensors.index.json.
      seq_len: context of the model, where it should be less than what is told.

    Raises:
      FileNotFoundError: there is no such folder, or no config.json in it.
      ValueError: it is of an architecture that kleiber has not, damaged, or holds other files of weights only.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; give a folder as transformers' save_pretrained writes it.")
    told = _read_object(folder / CONFIG)
    try:
        found, config = model_of(told, seq_len)
    except ValueError as problem:
        raise ValueError(f"{folder / CONFIG}: {problem}") from None
    try:
        arrays = arrays_of(found, config, _tensors(folder))
    except ValueError as problem:
        raise problem if str(folder) in str(problem) else ValueError(f"{folder}: {problem}") from None
    return Folder(found, config, arrays, told)


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a folder by name."""
    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        others = sorted(path.name for kind in RUNS_CODE for path in folder.glob(kind))
        if others:
            raise ValueError(
                f"{folder} holds its weights as {others[0]}, a format that can run code when it is read, so that "
                f"kleiber does not: open it where you trust it, and write {WEIGHTS} with save_pretrained."
            )
        raise ValueError(f"{folder} has neither {WEIGHTS} nor {INDEX}.")
    places = _read_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()):
        raise ValueError(f"{folder / INDEX} has no weight_map of names of files.")
    if wrong := [each for each in places.values() if Path(each).name != each or each in ("", ".", "..")]:
        raise ValueError(f"{folder / INDEX} names {wrong[0]!r}, which lies outside its folder.")
    files = {name: read_safetensors(folder / name) for name in sorted(set(places.values()))}
    for tensor, name in places.items():
        if tensor not in files[name]:
            raise ValueError(f"{folder / name} has no {tensor}, which {INDEX} says it has.")
    return {tensor: files[name][tensor] for tensor, name in places.items()}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return json_of(read_plain(path))
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{path} is not whole JSON ({problem}); fetch or write it again.") from None
