"""The weights that a trunk begins with: drawn, or those of its start."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from kleiber.model.adapters.tree import put_on
from kleiber.model.functional import abstract_params, init_params
from kleiber.train.checkpoints.checkpoint import load_arrays, named_leaves
from kleiber.train.config import TrainConfig
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
    arrays, _ = load_arrays(start)
    found = weights_digest(start)
    if config.start.digest and found != config.start.digest:
        raise ValueError(
            f"the weights in {start} are others than this run was made for (digest {found}, and {config.start.digest} "
            "then): restore them, or leave start.digest out in a new --out."
        )
    if arrays.pop("tokenizer_model", np.zeros(0, np.uint8)).tobytes() != tokenizer_model:
        raise ValueError(
            f"the start in {start} read text by another model of the tokenizer '{config.data.tokenizer}' than "
            f"'{config.data.corpus}' has, so that its table is of other tokens; use the tokenizer 'bytes' for both."
        )
    params = put_on(drawn, tree_of({name.removeprefix("params/"): array for name, array in arrays.items()}))
    expected, got = named_leaves(abstract_params(config.model)), named_leaves(params)
    wrong = [name for name in expected if name in got and np.shape(got[name]) != expected[name].shape]
    if wrong or got.keys() != expected.keys():
        names = (wrong + sorted(got.keys() ^ expected.keys()))[:5]
        raise ValueError(f"the start in {start} is of another shape: {', '.join(names)}.")
    return jax.tree.map(lambda leaf, like: np.asarray(leaf).astype(like.dtype), params, drawn)


def tree_of(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns arrays by path as nested dictionaries."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    return tree
