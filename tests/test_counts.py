"""Counts against the real tree of weights, the compiler's own count, and figures worked out by hand."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from compiled_flops import compiled_flops, program_flops

from kleiber.experiments.directory.record import planned_records
from kleiber.model import counts
from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.functional import abstract_params
from kleiber.model.ladder import ladder, shape_of_depth, shape_of_width
from kleiber.parallel.config import MeshConfig
from kleiber.train.config import DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig

BASE = ModelConfig(d_model=24, num_layers=3, num_heads=4, vocab_size=50, seq_len=20)
VARIANTS = [
    {},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1, "is_gated": True},
    {"is_gated": True, "d_ff": 40},
    {"has_tied_head": False},
    {"positions": "learned"},
    {"norm": "layernorm", "has_norm_gain": True},
    {"has_norm_gain": True, "has_previous_token_mix": True},
    {"has_scanned_layers": True, "has_norm_gain": True, "has_qk_norm": True, "norm": "layernorm"},
    {"has_qk_norm": True, "has_qk_norm_gain": True, "head_width": 10},
    {"has_tied_head": False, "positions": "learned", "is_gated": True, "has_previous_token_mix": True, "d_ff": 10},
]


@pytest.mark.parametrize("fields", VARIANTS)
def test_counted_parameters_equal_the_real_tree(fields):
    config = dataclasses.replace(BASE, **fields)
    params = abstract_params(config)
    sizes = {path[-1].key: 0 for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    for path, weight in jax.tree_util.tree_leaves_with_path(params):
        sizes[path[-1].key] += int(np.prod(weight.shape))
    assert counts.num_params_total(config) == sum(sizes.values())
    embedding = sum(sizes.get(name, 0) for name in ("embedding", "positions", "head"))
    assert counts.num_params_embedding(config) == embedding
    assert counts.num_params_non_embedding(config) == sum(sizes.values()) - embedding


def test_quickstart_counts_are_those_worked_out_by_hand():
    config = shape_of_width(32)
    assert counts.num_params_total(config) == 12 * 2 * 32**2 + 256 * 32 + 32
    assert counts.flops_per_token(config) == 6 * (12 * 2 * 32**2 + 256 * 32) + 12 * 2 * 32 * 128 == 294_912
    assert counts.flops_per_token_causal(config) == 6 * (12 * 2 * 32**2 + 256 * 32) + 6 * 2 * 32 * 128
    assert counts.flops_per_token_6n(config) == 6 * counts.num_params_total(config)
    assert counts.flops_per_token_6n_non_embedding(config) == 6 * (12 * 2 * 32**2 + 32)
    assert counts.training_flops(config, 1000) == 294_912_000


def test_a_planned_record_is_that_worked_out_by_hand():
    experts = ExpertsConfig(num_experts=4, num_active=2, num_shared=1)
    model = ModelConfig(
        d_model=8, num_layers=3, num_heads=2, num_kv_heads=1, d_ff=20, vocab_size=50, seq_len=16, experts=experts,
        is_gated=True, has_norm_gain=True, has_previous_token_mix=True, has_tied_head=False, parametrization="mup",
        compute_dtype="bfloat16",
    )  # fmt: skip
    config = TrainConfig(
        model, OptimizerConfig(0.003, "muon", weight_decay=0.05), (1000, 2000), batch_size=4, seed=7,
        data=DataConfig("own.txt", "sentencepiece:50"), schedule=ScheduleConfig("wsd"), mesh=MeshConfig(data=2),
        factors=(("bits", 8.0),),
    )  # fmt: skip
    record = planned_records("trial", "target", config, "large")[1000].to_json()
    attention = 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8  # query, one head of key and of value, output
    expert, router = 3 * 8 * 20, 8 * 4
    vectors, tables = 7 * 8 + 8, 2 * 50 * 8  # seven gains and the mix; embedding and head
    total = 3 * (attention + 5 * expert + router) + vectors + tables
    assert total == 8736
    flops_per_token = 6 * (3 * (attention + 3 * expert + router) + 50 * 8) + 12 * 3 * 16 * 8
    assert flops_per_token == 36_960
    tokens = 16 * 4 * 16  # 1000 / 64 = 15.6 steps, so 16
    expected = {
        "experiment": "trial", "split": "target", "target": "large", "status": "pending", "reason": "",
        "family": "mup-L3", "d_model": 8, "num_layers": 3, "num_params_total": total,
        "num_params_non_embedding": total - 800, "num_params_active": total - 3 * 2 * expert, "num_tokens": tokens,
        "num_steps": 16, "batch_size": 4, "seq_len": 16, "vocab_size": 50, "flops": flops_per_token * tokens,
        "flops_6nd": 6 * 8736 * 1024,
        "exchanged_bytes": 16 * 4 * total,  # two copies: half the float32 gradient sent twice, each step
        "tokens_per_parameter": 1024 / 8736, "seed": 7, "learning_rate": 0.003, "optimizer": "muon",
        "weight_decay": 0.05, "schedule": "wsd", "corpus": "own.txt", "tokenizer": "sentencepiece:50",
        "dtype": "bfloat16", "bits": 8.0,
    }  # fmt: skip
    named = {name: record.pop(name) for name in ("run_id", "trunk_id", "config_hash")}
    assert record == expected
    assert re.fullmatch("d8-L3-s7-[0-9a-f]{6}", named["trunk_id"])
    assert named["run_id"] == named["trunk_id"] + "-D1000" and named["config_hash"].startswith(named["trunk_id"][-6:])


def test_untying_the_head_changes_parameters_and_not_flops():
    untied = dataclasses.replace(BASE, has_tied_head=False)
    assert counts.num_params_total(untied) - counts.num_params_total(BASE) == 50 * 24
    assert counts.flops_per_token(untied) == counts.flops_per_token(BASE)


def sums_of_heads(config):
    """On CPU a normaliser reaches the columns of its head, and they are added up, by products with zeros and ones.

    Each is 2 N D a token and layer: forward, again where the forward pass is repeated, and backward.
    """
    return (2 + config.has_remat) * 2 * config.num_heads * config.num_heads * config.d_head * config.num_layers


@pytest.mark.parametrize(
    "fields",
    [
        {"num_layers": 2},
        {"num_layers": 1, "num_kv_heads": 2, "is_gated": True, "activation": "silu", "has_tied_head": False},
        {"num_layers": 2, "has_remat": True, "attention_blocks": 5},
        {"num_layers": 2, "has_remat": True, "remat_keeps": "attention", "is_gated": True},
        {"num_layers": 2, "has_remat": True, "remat_keeps": "products"},
    ],
)
def test_products_of_the_compiled_step_are_exactly_those_counted(fields):
    config = dataclasses.replace(BASE, **fields)
    assert compiled_flops(config).products == counts.flops_per_token_computed(config) + sums_of_heads(config)


@pytest.mark.parametrize(
    "config",
    [
        shape_of_width(128, num_layers=1, seq_len=64),
        shape_of_width(256, num_layers=2),
        shape_of_width(256, num_layers=1, num_heads=2, num_kv_heads=1, is_gated=True, activation="silu"),
        shape_of_width(512, num_layers=1, num_heads=8, has_tied_head=False, vocab_size=4096),
        shape_of_depth(3, vocab_size=1024, has_scanned_layers=True),
    ],
    ids=lambda config: f"d{config.d_model}L{config.num_layers}",
)
def test_counted_flops_are_within_two_percent_of_the_compilers_own_count(config):
    """One attention block, so that the full square is really computed; XLA also counts every elementwise operation."""
    compiled = compiled_flops(dataclasses.replace(config, attention_blocks=1))
    assert compiled.products == counts.flops_per_token(config) + sums_of_heads(config)
    assert 1.0 <= compiled.total / counts.flops_per_token(config) < 1.02


def test_blocks_save_the_stated_part_of_the_attention_square():
    full, cut = (dataclasses.replace(BASE, attention_blocks=blocks) for blocks in (1, 2))
    attention = 12 * 3 * 20 * 24
    assert counts.flops_per_token_computed(full) == counts.flops_per_token(full)
    assert counts.flops_per_token_computed(full) - counts.flops_per_token_computed(cut) == attention / 4


def test_splash_computes_the_blocks_that_the_diagonal_touches_twice_forward_and_five_times_backward():
    config = dataclasses.replace(BASE, seq_len=3000, attention_kernel="splash")  # filled up to 3,072
    positions = np.arange(3072)
    sees = positions[:, None] >= positions
    forward, backward = (
        sees.reshape(3072 // 512, 512, 3072 // keys, keys).any((1, 3)).sum() * 512 * keys for keys in (512, 1024)
    )
    attention = 2 * config.d_model * config.num_layers * (2 * forward + 5 * backward) / 3000
    products = counts.matmul_flops_per_token(config)
    assert counts.flops_per_token_computed(config) == pytest.approx(products + attention, rel=1e-12)


def test_a_product_inside_a_loop_counts_as_often_as_it_turns_or_is_refused():
    def turn(times, x):
        return jax.lax.fori_loop(0, times, lambda _, x: x @ x, x)

    x = np.ones((8, 8), np.float32)
    fixed = jax.jit(turn, static_argnums=0).lower(7, x).compile().as_text()
    assert program_flops(fixed) == 7 * 2 * 8**3
    open_ended = jax.jit(turn).lower(7, x).compile().as_text()
    with pytest.raises(ValueError, match="run-time value"):
        program_flops(open_ended)


def test_a_product_by_a_library_call_is_refused():
    text = """ENTRY %main (x: f32[2,2]) -> f32[2,2] {
  %x = f32[2,2]{1,0} parameter(0)
  ROOT %y = f32[2,2]{1,0} custom-call(%x, %x), custom_call_target="__onednn$matmul"
}
"""
    with pytest.raises(ValueError, match="library"):
        program_flops(text)


def test_a_ladder_increases_and_keeps_its_heads():
    shapes = ladder([96, 24, 48], vocab_size=512)
    assert [shape.d_model for shape in shapes] == [24, 48, 96]
    assert {shape.num_heads for shape in shapes} == {4}
    assert {shape.vocab_size for shape in shapes} == {512}


def test_depth_family_keeps_the_ratio_of_width_to_depth():
    for depth in (2, 4, 8):
        shape = shape_of_depth(depth)
        assert (shape.d_model, shape.num_layers, shape.d_head) == (64 * depth, depth, 64)


def test_a_misspelt_field_of_a_family_is_named_with_its_neighbour():
    with pytest.raises(ValueError, match="did you mean 'num_heads'"):
        shape_of_width(32, num_head=4)
