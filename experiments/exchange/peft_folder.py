"""A trained LoRA or DoRA as the folder that peft reads: adapter_config.json and adapter_model.safetensors.

Source: github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md. A matrix is a module of the model that
has our names with dots, such as blocks.00.attention.query, and holds [outputs, inputs], as torch's Linear does.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kleiber.experiments.exchange.safetensors_file import write_safetensors
from kleiber.files import write_whole
from kleiber.model.config import LOW_RANK
from kleiber.model.families.decoder import block_name
from kleiber.model.parametrization import BASE
from kleiber.train.config import TrainConfig

THEIRS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
"""Names of the weights beside another, ours and peft's."""


def write_peft(folder: Path, config: TrainConfig, params: Mapping[str, np.ndarray], base: str) -> Path:
    """Writes the folder; returns the file of its weights.

    Args:
      folder: made if it is missing.
      config: of the run.
      params: its weights by path.
      base: what the adapter stands beside, for people.

    Raises:
      ValueError: the run has no LoRA or DoRA, or moved other weights besides.
    """
    adapter, layout = config.model.adapter, {}
    if adapter is None or adapter.kind not in LOW_RANK:
        found = "no adapter" if adapter is None else f"adapter.kind '{adapter.kind}'"
        raise ValueError(f"the run has {found}, expected {' or '.join(LOW_RANK)}: peft has no other layout for it.")
    if config.trainable != "all":
        raise ValueError(f"trainable '{config.trainable}' moved weights beside the adapter; use --form merged.")
    for path, value in params.items():
        module, _, name = path.rpartition("/")
        if name not in THEIRS:
            continue
        if name == "magnitude":  # ours is over the length of the weight beside it
            value = value * np.linalg.norm(params[f"{module}/{BASE}"].astype(np.float32), axis=-2)
        for each, array in _layers(config, module, value):
            layout[f"{each}.{THEIRS[name]}"] = array.T
    matrices = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in layout})
    told = {
        **{"peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "inference_mode": True},
        **{"r": adapter.rank, "lora_alpha": adapter.alpha, "lora_dropout": 0.0, "bias": "none"},
        **{"target_modules": matrices, "fan_in_fan_out": False, "use_dora": adapter.kind == "dora"},
    }
    write_whole(folder / "adapter_config.json", json.dumps(told, indent=2) + "\n")
    arrays = {f"base_model.model.{name}": np.ascontiguousarray(array) for name, array in layout.items()}
    write_safetensors(folder / "adapter_model.safetensors", arrays, {"format": "pt"})
    return folder / "adapter_model.safetensors"


def _layers(config: TrainConfig, module: str, value: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Returns (name of the module, its array) of each layer that a weight holds: all of them where they are stacked."""
    first, _, rest = module.partition("/")
    if not config.model.has_scanned_layers:
        return [(module.replace("/", "."), value)]
    dotted = rest.replace("/", ".")
    return [(f"{first}.{block_name(layer)}.{dotted}", each) for layer, each in enumerate(value)]
