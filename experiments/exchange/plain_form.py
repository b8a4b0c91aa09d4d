"""A model as others write theirs: every factor that the parametrization puts on a product is in the weights, each norm
has a gain, each layer its own arrays. Its logits are those of the model, up to rounding.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kleiber.model.adapter import LOW_RANK
from kleiber.model.config import CompressionConfig, ModelConfig
from kleiber.model.parametrization import attention_scale, rules

Arrays = dict[str, np.ndarray]
OUTSIDE = {
    "family": "decoder",
    "has_previous_token_mix": False,
    "has_next_token_mix": False,
    "has_float8_products": False,
}
"""Fields of a model, and the only value of each that has a counterpart."""


@dataclass(frozen=True)
class PlainForm:
    """A model with nothing in it that only kleiber knows."""

    config: ModelConfig
    """Of the parametrization `standard`, in which nothing is multiplied by a constant but the scores."""
    arrays: Arrays
    """By path, such as blocks/00/attention/query; float32 or the dtype that they were stored in."""


def plain_form(config: ModelConfig, tree: Any) -> PlainForm:
    """Returns the plain form of a decoder.

    A tied table stays one: what its two uses are multiplied by differs, and the gain of the last norm takes in the
    difference.

    Args:
      config: of the model.
      tree: its weights, of one member, whole.

    Raises:
      ValueError: a field of the model has no counterpart elsewhere; names it.
    """
    from kleiber.model.adapters.tree import merge
    from kleiber.model.compress.tree import compress
    from kleiber.train.checkpoints.checkpoint import named_leaves

    for name, value in OUTSIDE.items():
        if (found := getattr(config, name)) != value:
            raise without_counterpart(f"model.{name}={found!r}", f"only {value!r} has one")
    if config.adapter is not None:
        if config.adapter.kind not in LOW_RANK:
            raise without_counterpart(
                f"model.adapter.kind={config.adapter.kind!r}", f"{', '.join(LOW_RANK)} are merged"
            )
        config, tree = merge(config, tree)
    arrays = {name: np.asarray(each) for name, each in named_leaves(compress(config, tree)).items()}
    arrays = _one_by_one(config, _multiplied_out(arrays))
    _fold(config, arrays)
    return PlainForm(as_plain(config), arrays)


def without_counterpart(what: str, why: str) -> ValueError:
    """Returns the error for what the Hugging Face layout cannot say."""
    return ValueError(f"{what} has no counterpart in the Hugging Face layout: {why}.")


def as_plain(config: ModelConfig) -> ModelConfig:
    """Returns the config of the plain form of a model: experts have room for every token, as when text is generated."""
    experts = config.experts
    if experts:
        experts = replace(experts, capacity_factor=experts.num_experts / experts.num_active, group_size=None)
    return replace(
        config,
        experts=experts,
        parametrization="standard",
        base_d_model=config.d_model,
        base_num_layers=config.num_layers,
        base_num_heads=None,
        has_norm_gain=True,
        has_qk_norm_gain=config.has_qk_norm,
        has_scanned_layers=False,
        compression=CompressionConfig(),
        adapter=None,
    )


def _multiplied_out(arrays: Arrays) -> Arrays:
    """Returns arrays by path with the product of two narrow factors in the place of them."""
    found: Arrays = {}
    for name, array in arrays.items():
        place, _, last = name.rpartition("/")
        if last == "left":
            found[place] = (array.astype(np.float64) @ arrays[f"{place}/right"].astype(np.float64)).astype(array.dtype)
        elif last != "right":
            found[name] = array
    return found


def _one_by_one(config: ModelConfig, arrays: Arrays) -> Arrays:
    """Returns arrays by path with those of stacked layers apart."""
    from kleiber.model.families.decoder import block_name

    if not config.has_scanned_layers:
        return arrays
    found: Arrays = {}
    for name, array in arrays.items():
        first, _, rest = name.partition("/")
        layers = enumerate(array) if first == "blocks" else ()
        found |= {f"{first}/{block_name(layer)}/{rest}": each for layer, each in layers} or {name: array}
    return found


def _fold(config: ModelConfig, arrays: Arrays) -> None:
    """Puts into the arrays, in place, what kleiber multiplies by, and gains where norms have none."""
    rule = rules(config)
    table, branch, head = (rule[name].multiplier for name in ("embedding", "output", "head"))
    scores = attention_scale(config) * config.d_head**0.5  # over what everybody else multiplies them by
    of_query = "query_gain" if config.has_qk_norm else "query"
    blocks = sorted({name.rpartition("/attention/")[0] for name in arrays if "/attention/" in name})
    norms = [f"{block}/{norm}" for block in blocks for norm in ("attention_norm", "feed_forward_norm")]
    dtype = arrays["input/embedding"].dtype
    for norm in [*norms, "final_norm"]:
        arrays.setdefault(f"{norm}/gain", np.ones(config.d_model, dtype))
        if config.norm == "layernorm":
            arrays.setdefault(f"{norm}/bias", np.zeros(config.d_model, dtype))
    if config.has_qk_norm:
        for place in (f"{block}/attention/{name}" for block in blocks for name in ("query_gain", "key_gain")):
            arrays.setdefault(place, np.ones(config.d_head, dtype))
    factors = {f"{block}/attention/{of_query}": scores for block in blocks}
    outputs = [name for name in arrays if name.rpartition("/")[2] in ("output", "down")]
    factors |= dict.fromkeys(outputs, branch) | {"input/embedding": table, "input/positions": table}
    if config.has_tied_head:
        factors |= {"final_norm/gain": head / table, "final_norm/bias": head / table}
    else:
        factors["head"] = head
    for name, factor in factors.items():
        if name in arrays and factor != 1:
            arrays[name] = (arrays[name].astype(np.float64) * factor).astype(arrays[name].dtype)
