"""A trained adapter as the folder that peft reads: adapter_config.json and adapter_model.safetensors.

Source: github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md. A matrix is a module of the model that
has our names with dots, such as blocks.00.attention.query, and holds [outputs, inputs], as torch's Linear does; virtual
tokens are a table of embeddings in front of those of the text.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kleiber.experiments.exchange.safetensors_file import write_safetensors
from kleiber.files import write_whole
from kleiber.model.adapter import AdapterConfig
from kleiber.model.adapters.adapted import PROMPT
from kleiber.model.config import ModelConfig
from kleiber.model.families.decoder import block_name
from kleiber.model.parametrization import BASE, rules
from kleiber.train.config import TrainConfig

Told = Callable[[ModelConfig, AdapterConfig], dict[str, Any]]


@dataclass(frozen=True)
class Layout:
    """How peft writes a kind of adapter down."""

    names: dict[str, str]
    """Its names of the weights beside another, by ours."""
    told: Told
    """(model, adapter) -> the fields of adapter_config.json that it has of its own."""


def _lora(model: ModelConfig, adapter: AdapterConfig) -> dict[str, Any]:
    return _low_rank("LORA", adapter) | {"r": adapter.rank, "use_dora": adapter.kind == "dora"}


def _adalora(model: ModelConfig, adapter: AdapterConfig) -> dict[str, Any]:
    first, last = adapter.budget_steps
    ranks = {"init_r": adapter.rank, "target_r": max(1, round(adapter.final_rank))}
    steps = {"tinit": first, "tfinal": 0, "total_step": last, "deltaT": 1}
    return _low_rank("ADALORA", adapter) | ranks | steps | {"orth_reg_weight": adapter.orthogonality}


def _low_rank(kind: str, adapter: AdapterConfig) -> dict[str, Any]:
    return {
        "peft_type": kind,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
    }


def _prompt(model: ModelConfig, adapter: AdapterConfig) -> dict[str, Any]:
    sizes = {"token_dim": model.d_model, "num_layers": model.num_layers, "num_attention_heads": model.num_heads}
    count = {"num_virtual_tokens": adapter.num_virtual_tokens, "num_transformer_submodules": 1}
    return {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM"} | sizes | count


PAIR = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
LAYOUTS = {
    "lora": Layout(PAIR, _lora),
    "dora": Layout(PAIR | {"magnitude": "lora_magnitude_vector"}, _lora),
    "adalora": Layout({"left_vectors": "lora_A", "singular_values": "lora_E", "right_vectors": "lora_B"}, _adalora),
    "prompt": Layout({PROMPT: "prompt_embeddings"}, _prompt),
}
"""A row for each kind of adapter that peft has a type for."""


def write_peft(folder: Path, config: TrainConfig, params: Mapping[str, np.ndarray], base: str) -> Path:
    """Writes the folder; returns the file of its weights.

    Args:
      folder: made if it is missing.
      config: of the run.
      params: its weights by path.
      base: what the adapter stands beside, for people.

    Raises:
      ValueError: the run has no adapter that peft has a type for, or moved other weights besides.
    """
    model, adapter = config.model, config.model.adapter
    if adapter is None or adapter.kind not in LAYOUTS:
        found = "no adapter" if adapter is None else f"adapter.kind '{adapter.kind}'"
        raise ValueError(f"the run has {found}, expected {', '.join(LAYOUTS)}: peft has no other layout for it.")
    if config.trainable != "all":
        to_merge = "use --form merged" if adapter.kind != PROMPT else "use --form weights"
        raise ValueError(f"trainable '{config.trainable}' moved weights beside the adapter; {to_merge}.")
    layout, tensors = LAYOUTS[adapter.kind], dict[str, np.ndarray]()
    for path in params:
        module, _, name = path.rpartition("/")
        if name not in layout.names:
            continue
        for each, array in _layers(config, module, _as_theirs(model, adapter, params, path)):
            place = f"{each}." if name != PROMPT else ""
            tensors[f"{place}{layout.names[name]}"] = np.ascontiguousarray(array)
    told = {"task_type": None, "base_model_name_or_path": base, "inference_mode": True, **layout.told(model, adapter)}
    if adapter.kind == PROMPT:
        told["task_type"] = "CAUSAL_LM" if model.is_causal else "FEATURE_EXTRACTION"
    else:
        told["target_modules"] = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors})
        tensors = {f"base_model.model.{name}": array for name, array in tensors.items()}
    write_whole(folder / "adapter_config.json", json.dumps(told, indent=2) + "\n")
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    return folder / "adapter_model.safetensors"


def _as_theirs(model: ModelConfig, adapter: AdapterConfig, params: Mapping[str, np.ndarray], path: str) -> np.ndarray:
    """Returns a weight, perhaps of stacked layers, as peft turns and scales it."""
    value, (module, _, name) = params[path], path.rpartition("/")
    if name == PROMPT:  # it stands behind what the table is multiplied by, with them
        return value * np.float32(rules(model)["embedding"].multiplier)
    if name == "magnitude":  # ours is over the length of the weight beside it
        return value * np.linalg.norm(params[f"{module}/{BASE}"].astype(np.float32), axis=-2)
    if name == "singular_values":  # peft divides by the rank and .00001
        return value[..., None] * np.float32((adapter.rank + 1e-5) / adapter.rank)
    return np.swapaxes(value, -1, -2)


def _layers(config: TrainConfig, module: str, value: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Returns (name of the module, its array) of each layer that a weight holds: all of them where they are stacked."""
    first, _, rest = module.partition("/")
    if not config.model.has_scanned_layers or first != "blocks":
        return [(module.replace("/", "."), value)]
    dotted = rest.replace("/", ".")
    return [(f"{first}.{block_name(layer)}.{dotted}", each) for layer, each in enumerate(value)]
