"""The tensors of a Hugging Face folder, from the arrays of a plain form and back."""

from collections.abc import Iterator, Mapping

import numpy as np

from kleiber.experiments.exchange.architectures import Architecture
from kleiber.experiments.exchange.plain_form import Arrays
from kleiber.model.config import ModelConfig
from kleiber.model.families.decoder import block_name

FUSED = "qkv"
"""The matrix of GPT-2 that holds query, key and value beside each other, as many heads of each."""
PARTS = ("query", "key", "value")


def tensors_of(found: Architecture, config: ModelConfig, arrays: Arrays) -> Arrays:
    """Returns the tensors by their published names.

    Args:
      found: architecture_of the config.
      config: of a plain form.
      arrays: its weights.
    """
    arrays, tensors = dict(arrays), {}
    if not found.has_kv_heads:
        for layer in range(config.num_layers):
            place = f"blocks/{block_name(layer)}/attention"
            key, value = (_for_each_head(config, arrays[f"{place}/{name}"]) for name in ("key", "value"))
            arrays[f"{place}/{FUSED}"] = np.concatenate([arrays[f"{place}/query"], key, value], axis=1)
    for ours, theirs in _pairs(found, config):
        for name, array in _of_experts(theirs, arrays[ours], config):
            tensors[name] = np.ascontiguousarray(array.T if _is_turned(found, ours) else array)
    return tensors | {name: np.zeros(shape, arrays["input/embedding"].dtype) for name, shape in _biases(found, config)}


def arrays_of(found: Architecture, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> Arrays:
    """Returns the arrays of a plain form, by path.

    Args:
      found: the architecture.
      config: what config.json tells.
      tensors: by their published names.

    Raises:
      ValueError: a tensor is missing, of another shape, not finite, or one that kleiber has no counterpart of.
    """
    from kleiber.model.functional import abstract_params
    from kleiber.train.checkpoints.checkpoint import named_leaves

    shapes = {name: tuple(leaf.shape) for name, leaf in named_leaves(abstract_params(config)).items()}
    arrays: Arrays = {}
    used = set()
    for ours, theirs in _pairs(found, config):
        place = ours.rpartition("/")[0]
        expected = shapes.get(ours, (config.d_model, 3 * config.num_heads * config.d_head))
        of_experts = "{expert}" in theirs
        shape = expected[1:] if of_experts else expected
        shape = shape[::-1] if _is_turned(found, ours) else shape
        names = [theirs.format(expert=expert) for expert in range(expected[0])] if of_experts else [theirs]
        parts = [_checked(tensors, name, shape) for name in names]
        parts = [part.T if _is_turned(found, ours) else part for part in parts]
        used |= set(names)
        array = np.stack(parts) if of_experts else parts[0]
        if ours.endswith(f"/{FUSED}"):
            arrays |= {f"{place}/{name}": part for name, part in zip(PARTS, np.split(array, 3, axis=1), strict=True)}
        else:
            arrays[ours] = array
    for name, shape in _biases(found, config):
        if name in tensors and np.any(_checked(tensors, name, shape)):
            raise ValueError(f"{name} is not zero, and kleiber's matrices have no bias: there is no counterpart.")
        used.add(name)
    spare = sorted(name for name in tensors if name not in used and not _is_of_no_weight(name, config))
    if spare:
        more = f" and {len(spare) - 1} more" if len(spare) > 1 else ""
        raise ValueError(f"{spare[0]}{more} is no tensor of a {found.name} of this config: it has no counterpart.")
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _pairs(found: Architecture, config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Yields (path, name) of every weight; a name of experts still holds {expert}."""
    for ours, theirs in found.weights.items():
        if ours == "head" and config.has_tied_head:
            continue
        for layer in range(config.num_layers) if "{layer}" in ours else [0]:
            yield ours.replace("{layer}", block_name(layer)), theirs.replace("{layer}", str(layer))


def _biases(found: Architecture, config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields (name, shape) of the biases that an architecture has of its matrices."""
    if found.model_type != "gpt2":
        return
    width, d_ff = config.d_model, config.feed_forward_width
    for layer in range(config.num_layers):
        for name, size in (
            ("attn.c_attn", 3 * width),
            ("attn.c_proj", width),
            ("mlp.c_fc", d_ff),
            ("mlp.c_proj", width),
        ):
            yield f"transformer.h.{layer}.{name}.bias", (size,)


def _is_turned(found: Architecture, ours: str) -> bool:
    """Returns whether a weight of ours is the transpose of theirs: vectors and tables are not."""
    last = ours.rpartition("/")[2]
    is_vector = last in ("gain", "bias", "query_gain", "key_gain")
    return not is_vector and (ours == "head" or (ours.startswith("blocks/") and found.is_turned))


def _of_experts(theirs: str, array: np.ndarray, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    if "{expert}" not in theirs:
        yield theirs, array
        return
    for expert, each in enumerate(array):
        yield theirs.format(expert=expert), each


def _for_each_head(config: ModelConfig, matrix: np.ndarray) -> np.ndarray:
    """Returns a matrix [D, K H] of keys or values with those of each query head, [D, N H]."""
    heads = matrix.reshape(config.d_model, config.kv_heads, config.d_head)
    return np.repeat(heads, config.num_heads // config.kv_heads, axis=1).reshape(config.d_model, -1)


def _checked(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in tensors:
        raise ValueError(f"the tensor {name} is missing; expected it with the shape {list(shape)}.")
    found = tensors[name]
    if tuple(found.shape) != tuple(shape):
        raise ValueError(f"{name} has the shape {list(found.shape)}, expected {list(shape)} by config.json.")
    if not np.isfinite(found.astype(np.float32)).all():
        raise ValueError(f"{name} holds a number that is not finite; the file is damaged, or of a run that diverged.")
    return found


def _is_of_no_weight(name: str, config: ModelConfig) -> bool:
    """Returns whether a tensor is a table that follows from the config, or the head of a tied one."""
    of_head = name == "lm_head.weight" and config.has_tied_head
    return of_head or name.endswith(("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"))
