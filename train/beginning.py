"""The weights that a trunk begins with, drawn or those of its start; and those of its teacher."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from kleiber.model.adapters.tree import put_on
from kleiber.model.config import ModelConfig
from kleiber.model.functional import abstract_params, init_params
from kleiber.train.checkpoints.checkpoint import load_arrays, named_leaves, tree_of
from kleiber.train.config import FinishedRun, TrainConfig
from kleiber.train.start import weights_digest


def first_weights(config: TrainConfig, start: Path | None, tokenizer_model: bytes = b"") -> Any:
    """Returns the weights at step 0 of one member, host arrays.

    Args:
      config: of the member.
      start: the folder of the weights of its start; None where it has none.
      tokenizer_model: that its text is encoded with.

    Raises:
      ValueError: the start is damaged, changed, of another shape or of another tokenizer; says which.
    """
    drawn = init_params(config.model, config.seed)
    if config.start is None:
        return drawn
    assert start is not None, "a trunk with a start is told where its weights lie"
    arrays = _arrays_of(config, config.start, start, tokenizer_model)
    params = put_on(drawn, tree_of(arrays))
    _check_shape(config.model, params, f"the start in {start}")
    return jax.tree.map(lambda leaf, like: np.asarray(leaf).astype(like.dtype), params, drawn)


def teacher_weights(config: TrainConfig, folder: Path | None, tokenizer_model: bytes = b"") -> Any:
    """Returns the weights of the teacher, host arrays; None where there is none. Arguments and errors as first_weights,
    of its folder."""
    if config.teacher is None:
        return None
    assert folder is not None, "a trunk with a teacher is told where its weights lie"
    params = tree_of(_arrays_of(config, config.teacher, folder, tokenizer_model))
    _check_shape(config.teacher.shape, params, f"the teacher in {folder}")
    return params


def _arrays_of(config: TrainConfig, source: FinishedRun, folder: Path, tokenizer_model: bytes) -> dict[str, np.ndarray]:
    """Returns the weights in a folder by path, checked to be those of a source and of the tokenizer of a config."""
    called = source.called
    arrays, _ = load_arrays(folder)
    found = weights_digest(folder)
    if source.digest and found != source.digest:
        raise ValueError(
            f"the weights in {folder} are others than this run was made for (digest {found}, and {source.digest} "
            f"then): restore them, or leave {called}.digest out in a new --out."
        )
    if arrays.pop("tokenizer_model", np.zeros(0, np.uint8)).tobytes() != tokenizer_model:
        raise ValueError(
            f"the {called} in {folder} read text by another model of the tokenizer '{config.data.tokenizer}' than "
            f"'{config.data.corpus}' has, so that its table is of other tokens; use the tokenizer 'bytes' for both."
        )
    return {name.removeprefix("params/"): array for name, array in arrays.items()}


def _check_shape(model: ModelConfig, params: Any, what: str) -> None:
    expected, got = named_leaves(abstract_params(model)), named_leaves(params)
    wrong = [name for name in expected if name in got and np.shape(got[name]) != expected[name].shape]
    if wrong or got.keys() != expected.keys():
        names = (wrong + sorted(got.keys() ^ expected.keys()))[:5]
        raise ValueError(f"{what} is of another shape: {', '.join(names)}.")
