"""Named shapes from 124 million to a trillion parameters, to compile for pods and to start real runs from.

All are bfloat16 arithmetic over float32 master weights, scanned and rematerialised layers, rotary positions, gated SiLU
feed-forwards, grouped queries (but 124m, which is GPT-2's shape), CompleteP so that one learning rate serves them all,
and logits in parts. Widths are multiples of 128 times the largest tensor axis that suits, and vocabularies of 256.
The batch is the one that the table of docs/parallel.md is computed with; --batch-size changes it.
"""

import dataclasses
import difflib

from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.counts import num_params_active
from kleiber.train.config import OptimizerConfig, ScheduleConfig, TrainConfig

LLAMA = ModelConfig(
    d_model=128,
    num_layers=1,
    num_heads=1,
    vocab_size=128_256,
    seq_len=4096,
    activation="silu",
    is_gated=True,
    has_norm_gain=True,
    has_tied_head=False,
    parametrization="completep",
    base_d_model=256,
    base_num_layers=4,
    base_num_heads=2,
    compute_dtype="bfloat16",
    has_scanned_layers=True,
    has_remat=True,
    attention_blocks=4,
)
"""What the presets share. The base shape is that of LEARNING_RATE: two heads of 128, four layers."""

LEARNING_RATE = 2**-8
"""At the base shape."""

MODELS: dict[str, ModelConfig] = {
    # GPT-2 small: 124 million with a tied head.
    "124m": dataclasses.replace(
        LLAMA, d_model=768, num_layers=12, num_heads=12, d_ff=3072, is_gated=False, activation="gelu", seq_len=1024,
        vocab_size=50_304, has_tied_head=True, base_num_heads=4,
    ),
    "1b": dataclasses.replace(
        LLAMA, d_model=2048, num_layers=16, num_heads=16, num_kv_heads=8, d_ff=8192, vocab_size=32_768
    ),
    # The shapes of Llama 3.1 8B, 70B and 405B (Dubey et al. 2024, arXiv:2407.21783, table 3); 405b has 16 key/value
    # heads in place of 8, for a tensor axis of 16.
    "8b": dataclasses.replace(LLAMA, d_model=4096, num_layers=32, num_heads=32, num_kv_heads=8, d_ff=14_336),
    "70b": dataclasses.replace(LLAMA, d_model=8192, num_layers=80, num_heads=64, num_kv_heads=8, d_ff=28_672),
    "405b": dataclasses.replace(LLAMA, d_model=16_384, num_layers=126, num_heads=128, num_kv_heads=16, d_ff=53_248),
    "1t-dense": dataclasses.replace(
        LLAMA, d_model=24_576, num_layers=132, num_heads=192, num_kv_heads=16, d_ff=83_968
    ),
    # A trillion parameters, of which a token passes 50 billion.
    "1t-moe": dataclasses.replace(
        LLAMA, d_model=8192, num_layers=60, num_heads=64, num_kv_heads=16, d_ff=5120,
        experts=ExpertsConfig(num_experts=128, num_active=4, num_shared=1, group_size=512, capacity_factor=1.25),
    ),
}  # fmt: skip

BATCH_SIZES = {"124m": 512, "1b": 512, "8b": 256, "70b": 1024, "405b": 1024, "1t-dense": 1024, "1t-moe": 4096}
"""Sequences a step."""

LOSS_BLOCKS = {"124m": 2, "1b": 4, "8b": 4, "70b": 4, "405b": 4, "1t-dense": 4, "1t-moe": 4}
"""Parts of a sequence whose logits exist at a time. Each part gathers the head again, so few are better than many."""


def preset(name: str) -> TrainConfig:
    """Returns a named configuration, for one device; the mesh is the caller's choice. Raises ValueError if there is no
    such preset; names the nearest."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.3)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"unknown preset '{name}'; {hint}known: {', '.join(MODELS)}.")
    model = MODELS[name]
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(learning_rate=LEARNING_RATE, beta2=0.95),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=2000),
        num_tokens=(20 * num_params_active(model),),  # Hoffmann et al. 2022 (arXiv:2203.15556): about 20 a parameter
        batch_size=BATCH_SIZES[name],
        loss_blocks=LOSS_BLOCKS[name],
        initialisation="device",
        steps_per_call=1,
    )
