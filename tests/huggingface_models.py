"""A small model of each architecture that has a counterpart, its fields away from their defaults."""

from dataclasses import replace

import jax
import numpy as np

from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.functional import init_params
from kleiber.train.config import OptimizerConfig, TrainConfig

BASE = ModelConfig(12, 2, 4, num_kv_heads=2, head_width=4, seq_len=10, base_d_model=8, base_num_layers=1)
EXPERTS = ExpertsConfig(4, 2, capacity_factor=2.0)  # room for all: transformers has no full experts
KINDS = {
    "ArceeForCausalLM": replace(BASE, has_scanned_layers=True),
    "LlamaForCausalLM": replace(
        BASE, is_gated=True, activation="silu", has_tied_head=False, parametrization="completep", rotary_base=50.0
    ),
    "Qwen3ForCausalLM": replace(BASE, is_gated=True, activation="gelu", has_qk_norm=True, parametrization="mup"),
    "ApertusForCausalLM": replace(BASE, has_qk_norm=True, has_qk_norm_gain=True, norm_epsilon=0.01),
    "Starcoder2ForCausalLM": replace(BASE, head_width=None, num_heads=2, num_kv_heads=1, norm="layernorm"),
    "StableLmForCausalLM": replace(
        BASE, head_width=None, num_heads=3, num_kv_heads=None, norm="layernorm", has_norm_gain=True, is_gated=True
    ),
    "GPT2LMHeadModel": replace(
        BASE, head_width=None, norm="layernorm", positions="learned", has_norm_gain=True, parametrization="mup",
        activation="gelu",
    ),
    "MixtralForCausalLM": replace(BASE, is_gated=True, activation="silu", experts=EXPERTS, d_ff=8),
    "Qwen3MoeForCausalLM": replace(
        BASE, is_gated=True, has_qk_norm=True, experts=replace(EXPERTS, has_normalised_weights=False), d_ff=8
    ),
}  # fmt: skip


def weights(config, seed=0):
    """Weights away from where they start, where half of them are zero."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (x + 0.3 * draw.standard_normal(x.shape)).astype(x.dtype), init_params(config, 0))


def run_config(model, **fields):
    return TrainConfig(model, OptimizerConfig(0.1), (1000,), **fields)
