"""config.json: what a folder says of its model, from a plain form and back."""

import difflib
from collections.abc import Mapping
from typing import Any

from kleiber.experiments.exchange.architectures import (
    ACTIVATIONS,
    ALIKE,
    ARCHITECTURES,
    SAME,
    SHAPE,
    Architecture,
    Fields,
)
from kleiber.experiments.exchange.plain_form import without_counterpart
from kleiber.model.config import ExpertsConfig, ModelConfig


def architecture_of(config: ModelConfig) -> Architecture:
    """Returns the architecture that a model in plain form is.

    Raises:
      ValueError: there is none; names the field that no architecture of its kind has.
    """
    wanted = {name: getattr(config, name) for name in SHAPE}

    def agreeing(each: Architecture) -> int:
        return sum(each.shape[name] == value for name, value in wanted.items()) + (
            each.has_experts == bool(config.experts)
        )

    found = max(ARCHITECTURES, key=agreeing)
    if found.has_experts != bool(config.experts):
        raise without_counterpart("model.experts with these fields", "Mixtral and Qwen3Moe have it gated, with rmsnorm")
    for name, value in wanted.items():
        if found.shape[name] != value:
            rest = ", ".join(f"{other}={wanted[other]!r}" for other in wanted if other != name)
            raise without_counterpart(f"model.{name}={value!r} with {rest}", f"{found.name} has {found.shape[name]!r}")
    _check_experts(config, found)
    if not found.has_head_dim and config.d_head * config.num_heads != config.d_model:
        raise without_counterpart(f"model.head_width={config.head_width}", f"{found.name} has d_model / num_heads")
    return found


def _check_experts(config: ModelConfig, found: Architecture) -> None:
    if (experts := config.experts) is None:
        return
    if experts.num_shared:
        raise without_counterpart(f"model.experts.num_shared={experts.num_shared}", f"{found.name} has none")
    if not experts.has_normalised_weights and not config.has_qk_norm:
        raise without_counterpart("model.experts.has_normalised_weights=False", f"{found.name} always has them")


def config_json(config: ModelConfig, dtype: str, separator: int) -> dict[str, Any]:
    """Returns the content of config.json.

    Args:
      config: of a plain form.
      dtype: of its weights.
      separator: the token that ends a document, and stands before the first.

    Raises:
      ValueError: as architecture_of.
    """
    found = architecture_of(config)
    told: dict[str, Any] = {"architectures": [found.name], "model_type": found.model_type}
    told |= {key: getattr(config, name) for key, name in found.sizes.items()}
    told[found.feed_forward] = config.feed_forward_width
    if found.has_kv_heads:
        told["num_key_value_heads"] = config.kv_heads
    if found.has_head_dim:
        told["head_dim"] = config.d_head
    told |= {found.activation: ACTIVATIONS[config.activation], found.epsilon: config.norm_epsilon}
    if config.positions == "rotary":  # rope_parameters from transformers 5 on, rope_theta before
        partial = {key: value for key, value in found.keys.items() if key == "partial_rotary_factor"}
        told["rope_theta"] = config.rotary_base
        told["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rotary_base, **partial}
    if config.experts:
        told[found.num_experts] = config.experts.num_experts
        told["num_experts_per_tok"] = config.experts.num_active
        if found.model_type == "qwen3_moe":
            told["norm_topk_prob"] = config.experts.has_normalised_weights
    told |= found.keys
    told["tie_word_embeddings"] = config.has_tied_head
    told |= {"bos_token_id": separator, "eos_token_id": separator, "pad_token_id": None}
    return told | {"dtype": dtype, "torch_dtype": dtype}


def model_of(told: Mapping[str, Any], seq_len: int | None = None) -> tuple[Architecture, ModelConfig]:
    """Returns (architecture, config of the plain form) that a config.json tells.

    Args:
      told: its content.
      seq_len: of the model, where it should be less than the context that is told.

    Raises:
      ValueError: an unknown architecture, a key that is missing or of another kind, or a value that kleiber has no
        counterpart of; names it.
    """
    found, fixed, defaults = _architecture(told)
    told = {**defaults, **told}
    sizes = {name: _number(told, key, int) for key, name in found.sizes.items()}
    if seq_len is not None:
        if found.shape["positions"] == "learned" and seq_len != sizes["seq_len"]:
            raise ValueError(f"a context of {seq_len} in place of {sizes['seq_len']}: learned positions are as many.")
        sizes["seq_len"] = min(seq_len, sizes["seq_len"])
    for key, value in fixed.items():
        is_wide = key == "sliding_window" and isinstance(told.get(key), int) and told[key] >= sizes["seq_len"]
        if key != "partial_rotary_factor" and told.get(key, value) != value and not is_wide:
            raise _unknown(key, told[key], f"{value!r} alone has a counterpart")
    activation = told[found.activation]
    if activation not in ALIKE:
        raise _unknown(found.activation, activation, f"kleiber has {', '.join(sorted(ALIKE))}")
    fields: dict[str, Any] = dict(found.shape)
    if found.has_kv_heads and told.get("num_key_value_heads") is not None:
        fields["num_kv_heads"] = _number(told, "num_key_value_heads", int)
    if fields["positions"] == "rotary":
        fields["rotary_base"] = _rotary_base(told)
    if found.has_head_dim and told.get("head_dim") is not None:
        width = _number(told, "head_dim", int)
        fields["head_width"] = None if width * sizes["num_heads"] == sizes["d_model"] else width
    if found.has_experts:
        fields["experts"] = _experts(told, found)
    if found.feed_forward in defaults and told[found.feed_forward] is None:  # of GPT-2
        fields["d_ff"] = 4 * sizes["d_model"]
    else:
        fields["d_ff"] = _number(told, found.feed_forward, int)
    model = ModelConfig(
        **sizes,
        **fields,
        activation=ALIKE[activation],
        norm_epsilon=_number(told, found.epsilon, float),
        has_norm_gain=True,
        has_qk_norm_gain=fields["has_qk_norm"],
        has_tied_head=bool(told.get("tie_word_embeddings", found.is_tied)),
        parametrization="standard",
        base_d_model=sizes["d_model"],
        base_num_layers=sizes["num_layers"],
    )
    return found, model


def _architecture(told: Mapping[str, Any]) -> tuple[Architecture, dict[str, Any], dict[str, Any]]:
    """Returns (architecture, keys with their only values, published defaults) of what a config.json names."""
    by_name: dict[str, tuple[Architecture, Fields, Fields]] = {each.name: (each, {}, {}) for each in ARCHITECTURES}
    by_name |= SAME
    names = told.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f"architectures is {names!r}, expected a list of one of {', '.join(by_name)}.")
    if names[0] not in by_name:
        near = difflib.get_close_matches(names[0], by_name, n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"architecture {names[0]!r} is none that kleiber reads{hint} It reads {', '.join(by_name)}.")
    found, keys, defaults = by_name[names[0]]
    return found, {**found.keys, **keys}, {**found.defaults, **defaults}


def _experts(told: Mapping[str, Any], found: Architecture) -> ExpertsConfig:
    key = found.num_experts if found.num_experts in told else "num_local_experts"  # as transformers 5 calls all
    num, active = _number(told, key, int), _number(told, "num_experts_per_tok", int)
    is_normalised = found.model_type != "qwen3_moe" or bool(told.get("norm_topk_prob", False))
    return ExpertsConfig(num, active, capacity_factor=num / active, has_normalised_weights=is_normalised)


def _rotary_base(told: Mapping[str, Any]) -> float:
    """Returns the base of the positions, told as transformers 5 does or as those before; refuses any stretching."""
    rope = dict(told.get("rope_parameters") or told.get("rope_scaling") or {})
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    if kind != "default":
        raise _unknown("rope_parameters", kind, "positions that are stretched have no counterpart")
    whole = {"rope_theta": told.get("rope_theta", 10_000.0), "partial_rotary_factor": told.get("partial_rotary_factor")}
    whole |= rope
    if (part := whole.pop("partial_rotary_factor")) not in (None, 1):
        raise _unknown("partial_rotary_factor", part, "kleiber turns whole heads")
    return _number(whole, "rope_theta", float)


def _number(told: Mapping[str, Any], key: str, kind: type) -> Any:
    value = told.get(key)
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise ValueError(f"{key} is {value!r}, expected a number." if key in told else f"it has no {key}.")
    return kind(value)


def _unknown(key: str, value: Any, why: str) -> ValueError:
    return ValueError(f"{key} is {value!r}, which kleiber has no counterpart of: {why}.")
