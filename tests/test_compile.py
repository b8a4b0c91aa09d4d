"""What kleiber compile reads and reckons: chips, programs, traffic by mesh axis, presets, memory, names.

Programs are compiled for eight CPU devices; the compiler for TPUs is not needed.
"""

import dataclasses
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from kleiber.experiments.cli import main
from kleiber.experiments.commands.compile import parse_mesh
from kleiber.experiments.compilation.collectives import bytes_by_axis, collectives
from kleiber.experiments.compilation.hlo import parse, shape_bytes
from kleiber.experiments.compilation.memory import step_memory
from kleiber.experiments.compilation.products import estimated_cycles, product_flops
from kleiber.experiments.compilation.roofline import executed_flops, on_paper, send_seconds, sent_bytes
from kleiber.experiments.compilation.search import candidates
from kleiber.experiments.compilation.step import OutOfMemory, _least_effort, compile_step, state_bytes
from kleiber.experiments.compilation.topology import CHIPS, Links, axis_links, parse_topology
from kleiber.experiments.presets import MODELS, preset
from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.counts import num_params_active, num_params_total
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh
from kleiber.train.config import OptimizerConfig, TrainConfig

MODEL = ModelConfig(
    d_model=64, num_layers=6, num_heads=4, d_ff=128, vocab_size=128, seq_len=32, has_scanned_layers=True,
    has_remat=True, attention_blocks=2, has_tied_head=False,
)  # fmt: skip
CONFIG = TrainConfig(MODEL, OptimizerConfig(1e-3), (1000,), batch_size=16, steps_per_call=1, loss_blocks=2)


@pytest.mark.parametrize(
    ("kind", "teraflops", "gigabytes", "memory_gbps", "chip_gbps"),
    # From the vendor's pages: bfloat16 peak, capacity, HBM bandwidth, ICI bandwidth per chip, both directions of all
    # links (v4: the 300 GB/s one way of its page and paper).
    [
        ("v4", 275, 32, 1228, 600),
        ("v5e", 197, 16, 819, 400),
        ("v5p", 459, 95, 2765, 1200),
        ("v6e", 918, 32, 1638, 800),
        ("tpu7x", 2307, 192, 7380, 1200),
    ],
)
def test_the_figures_of_a_chip_are_those_of_its_data_sheet(kind, teraflops, gigabytes, memory_gbps, chip_gbps):
    chip = CHIPS[kind]
    assert chip.peak_flops == teraflops * 1e12
    assert chip.hbm_bandwidth == memory_gbps * 1e9
    assert 2 * 2 * chip.torus_dimensions * chip.link_bandwidth == chip_gbps * 1e9
    assert 0.94 * gigabytes < chip.hbm_bytes / 2**30 < 1.01 * gigabytes  # the system keeps a little


def test_clocks_give_the_peak_with_the_published_matrix_units():
    for kind, units in (("v4", 8), ("v5e", 4), ("v5p", 8)):
        assert CHIPS[kind].clock * units * 2 * 128 * 128 == pytest.approx(CHIPS[kind].peak_flops, rel=0.01)


def test_a_topology_is_read_and_a_bad_one_gets_near_names():
    assert parse_topology("v5p:16x16x16").num_devices == 4096
    assert parse_topology("tpu7x:4x4x4").num_devices == 128  # two devices a chip
    with pytest.raises(ValueError, match="unknown chip 'v5x', known: v4, v5e"):
        parse_topology("v5x:16x16")
    with pytest.raises(ValueError, match="3 sizes, such as v5p:4x4x4, v5p:8x8x8, v5p:16x16x16"):
        parse_topology("v5p:16x16")


def test_without_the_compiler_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["compile", "124m", "--topology", "v5e:4x4"]) == 2
    assert "pip install 'kleiber[aot]'" in capsys.readouterr().err


def torus(*lengths):
    """A mesh-like box of devices with coordinates."""
    coordinates = list(np.ndindex(*lengths))
    return np.array([types.SimpleNamespace(coords=c) for c in coordinates], dtype=object).reshape(lengths)


def test_an_axis_has_the_links_of_the_dimensions_it_lies_on():
    chip = CHIPS["v5p"]
    mesh = types.SimpleNamespace(devices=torus(4, 4, 4).reshape(16, 4), shape={"fsdp": 16, "tensor": 4})
    assert axis_links(mesh, chip) == {"fsdp": Links(4 * 100e9, 2.0, 100e9), "tensor": Links(2 * 100e9, 1.0, 100e9)}
    half = types.SimpleNamespace(devices=torus(4, 4, 4).reshape(16, 2, 2), shape={"fsdp": 16, "data": 2, "tensor": 2})
    assert axis_links(half, chip)["tensor"].bandwidth == 100e9  # part of a dimension is a line
    small = types.SimpleNamespace(devices=torus(8, 8, 1).reshape(8, 8), shape={"fsdp": 8, "tensor": 8})
    assert axis_links(small, CHIPS["v5e"])["fsdp"].bandwidth == 50e9  # rings close at 16 on v5e


def compiled_text(function, mesh, *arguments, **options):
    with jax.set_mesh(mesh):
        return jax.jit(function, **options).lower(*arguments).compile().as_text()


def split(mesh, *axes):
    return NamedSharding(mesh, PartitionSpec(*axes))


def array(mesh, shape, *axes):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split(mesh, *axes))


def test_a_tensor_parallel_layer_sends_one_all_reduce_of_its_output():
    sizes = MeshConfig(data=2, tensor=4)
    mesh = make_mesh(sizes)
    up, down = array(mesh, (16, 64), None, "tensor"), array(mesh, (64, 16), "tensor", None)
    x = array(mesh, (8, 16), "data", None)
    text = compiled_text(lambda x, up, down: x @ up @ down, mesh, x, up, down, out_shardings=split(mesh, "data"))
    (item,) = collectives(parse(text), sizes.sizes)
    assert (item.kind, item.axes, item.num_devices) == ("all-reduce", ("tensor",), 4)
    assert item.total_bytes == 2 * 3 / 4 * (4 * 16 * 4)  # 8 / 2 rows of 16 float32


def test_split_weights_in_a_loop_are_gathered_once_a_turn():
    sizes = MeshConfig(fsdp=8)
    mesh = make_mesh(sizes)
    weights, x = array(mesh, (5, 32, 32), None, "fsdp", None), array(mesh, (64, 32), "fsdp", None)

    def layers(x, weights):
        def layer(x, weight):
            gathered = jax.lax.with_sharding_constraint(weight, PartitionSpec(None, None))
            return jnp.tanh(x @ gathered), None

        return jax.lax.scan(layer, x, weights)[0]

    program = parse(compiled_text(layers, mesh, x, weights, out_shardings=split(mesh, "fsdp")))
    rows = bytes_by_axis(collectives(program, sizes.sizes))
    assert rows == {("fsdp",): {"all-gather": 5 * 7 * (4 * 32 * 4)}}  # 7 times its own 4 rows, five layers
    assert product_flops(program) == 5 * 2 * (64 / 8) * 32 * 32


def test_a_permute_is_charged_to_the_axis_along_which_it_moves():
    sizes = MeshConfig(data=2, context=4)
    mesh = make_mesh(sizes)

    def shift(x):
        pairs = [(i, (i + 1) % 4) for i in range(4)]
        turn = lambda x: jax.lax.ppermute(x, "context", pairs)  # noqa: E731
        return jax.shard_map(
            turn, in_specs=PartitionSpec("data", "context"), out_specs=PartitionSpec("data", "context")
        )(x)

    (item,) = collectives(parse(compiled_text(shift, mesh, array(mesh, (4, 16), "data", "context"))), sizes.sizes)
    assert (item.kind, item.axes, item.total_bytes) == ("collective-permute", ("context",), 2 * 4 * 4)


TPU_TEXT = """HloModule step, is_scheduled=true

%fused_start (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.1 = bf16[16,8]{1,0} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, frontend_attributes={chain_id="0"}
}

%fused_more (p.2: bf16[4,8]) -> bf16[16,8] {
  %p.2 = bf16[4,8]{1,0} parameter(0)
  ROOT %gather.2 = bf16[16,8]{1,0} all-gather(%p.2), channel_id=7, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, frontend_attributes={chain_id="0"}
}

%inner_body (t: (u32[], bf16[4,8])) -> (u32[], bf16[4,8]) {
  %t = (u32[]{:T(128)}, bf16[4,8]{1,0}) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %i = u32[]{:T(128)} get-tuple-element(%t), index=0
  %next = u32[]{:T(128)} add(%i, %two)
  %w = bf16[4,8]{1,0} get-tuple-element(%t), index=1
  %more = bf16[16,8]{1,0} fusion(%w), kind=kLoop, calls=%fused_more
  ROOT %out = (u32[]{:T(128)}, bf16[4,8]{1,0}) tuple(%next, %w)
}

%inner_condition (c: (u32[], bf16[4,8])) -> pred[] {
  %c = (u32[]{:T(128)}, bf16[4,8]{1,0}) parameter(0)
  %ten = u32[]{:T(128)} constant(10)
  %j = u32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%j, %ten), direction=LT
}

%outer_body (s: (s32[], s32[], bf16[4,8])) -> (s32[], s32[], bf16[4,8]) {
  %s = (s32[], s32[], /*index=2*/bf16[4,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %n.next = s32[] add(%n, %one)
  %end = s32[] get-tuple-element(%s), index=1
  %v = bf16[4,8]{1,0} get-tuple-element(%s), index=2
  %zero = u32[] constant(0)
  %start = bf16[16,8]{1,0} fusion(%v), kind=kCustom, calls=%fused_start, backend_config={"window_config":{"estimated_cycles":"11"}}
  %state = (u32[], bf16[4,8]{1,0}) tuple(%zero, %v)
  %inner = (u32[], bf16[4,8]{1,0}) while(%state), condition=%inner_condition, body=%inner_body
  %sum = bf16[16,8]{1,0} all-reduce(%start), channel_id=9, replica_groups=mesh['a'=4,'b'=2] {'a'}, to_apply=%add
  %both = bf16[16,8]{1,0} all-reduce(%sum), channel_id=10, replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, to_apply=%add
  %product = bf16[1,5,6]{2,1,0} convolution(%left, %right), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f
  %left = bf16[1,5,8]{2,1,0} parameter(1)
  %right = bf16[3,8,6]{2,1,0} parameter(2)
  ROOT %result = (s32[], s32[], bf16[4,8]{1,0}) tuple(%n.next, %end, %v)
}

%outer_condition (d: (s32[], s32[], bf16[4,8])) -> pred[] {
  %d = (s32[], s32[], bf16[4,8]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%d), index=0
  %last = s32[] get-tuple-element(%d), index=1
  ROOT %before = pred[] compare(%k, %last), direction=LT
}

ENTRY %main (a: (s32[], s32[], bf16[4,8])) -> (s32[], s32[], bf16[4,8]) {
  %a = (s32[], s32[], bf16[4,8]{1,0}) parameter(0)
  ROOT %loop = (s32[], s32[], bf16[4,8]{1,0}) while(%a), condition=%outer_condition, body=%outer_body
}
"""  # noqa: E501


def test_loops_turn_as_often_as_their_counter_says():
    program = parse(TPU_TEXT)
    assert program.times["inner_body"] == 5  # 0, 2, 4, 6, 8
    assert program.times["outer_body"] == 1 and program.num_unknown_loops == 1  # its end is known at run time only
    assert estimated_cycles(program) == 11


def test_an_asynchronous_gather_counts_once_however_many_fusions_carry_it():
    gather, along_a, along_b = collectives(parse(TPU_TEXT), {"fsdp": 4, "tensor": 2})
    assert (gather.kind, gather.axes, gather.is_asynchronous, gather.times) == ("all-gather", ("fsdp",), True, 1)
    assert gather.total_bytes == 3 * (4 * 8 * 2)
    assert (along_a.axes, along_a.num_devices, along_a.is_asynchronous) == (("fsdp",), 4, False)
    assert (along_b.axes, along_b.total_bytes) == (("fsdp",), 2 * 3 / 4 * 16 * 8 * 2)


def test_padding_is_not_multiplied():
    # A window of 3 over 5 positions padded by one: 4 + 5 + 4 pairs; times 8 x 6 features, two FLOPs each.
    assert product_flops(parse(TPU_TEXT)) == 2 * 13 * 8 * 6


def test_a_batched_product_written_as_a_convolution_counts_as_the_product():
    # As a TPU writes the gradient of 32 experts' weights: sum over 4 x 8 x 20 places of [5120] times [8192], for each.
    text = """ENTRY %main (l: bf16[4,8,32,20,5120], r: bf16[32,8192,4,8,20]) -> bf16[32,5120,8192,1,1] {
  %l = bf16[4,8,32,20,5120]{4,3,2,1,0} parameter(0)
  %r = bf16[32,8192,4,8,20]{4,3,2,1,0} parameter(1)
  ROOT %c = bf16[32,5120,8192,1,1]{2,1,0,4,3} convolution(%l, %r), window={size=4x32x8 stride=1x31x1 lhs_dilate=1x32x1}, dim_labels=021fb_1o02i->1bf02
}
"""  # noqa: E501
    assert product_flops(parse(text)) == 2 * 32 * (4 * 8 * 20) * 5120 * 8192


def test_products_of_splash_count_by_the_blocks_that_it_is_called_with():
    text = """
ENTRY %main (table: s8[1,4,2], q: bf16[3,512,16]) -> bf16[3,512,16] {
  %table = s8[1,4,2]{2,1,0} parameter(0)
  %q = bf16[3,512,16]{2,1,0} parameter(1)
  ROOT %splash_mha_dkv.1 = bf16[3,512,16]{2,1,0} custom-call(%table, %q, %q, %q), custom_call_target="tpu_custom_call"
}
"""
    # Five products; of four blocks of queries two see one block of keys, and two see two.
    assert product_flops(parse(text)) == 5 * 2 * 3 * 512 * 512 * 16 * (1 + 1 + 2 + 2) / 8


def test_shapes_of_all_kinds_have_their_bytes():
    assert shape_bytes("(f32[2,3]{1,0:T(8,128)}, /*index=1*/bf16[4]{0}, pred[5], u32[])") == 24 + 8 + 5 + 4
    assert shape_bytes("f8e4m3fn[10]{0}") == 10 and shape_bytes("s4[10]") == 5


@pytest.fixture(scope="module")
def compiled():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=4, tensor=2))
    mesh = make_mesh(config.mesh)
    return config, mesh, compile_step(config, mesh).compiled


def test_the_products_of_a_compiled_step_are_those_counted(compiled):
    config, _, program = compiled
    assert product_flops(parse(program.as_text())) == executed_flops(config) / 8


def test_the_traffic_of_a_compiled_step_is_that_of_the_communication_model(compiled):
    config, _, program = compiled
    rows = bytes_by_axis(collectives(parse(program.as_text()), config.mesh.sizes))
    expected = sent_bytes(config)
    # The compiler for CPUs sums gradients by an all-reduce, twice the bytes of a reduce-scatter: once more the layers'
    # matrices and, in two parts, the head.
    gradients = 3 / 4 * 4 * (6 * (4 * 64 * 64 + 2 * 64 * 128) + 2 * 64 * 128) / 2
    assert sum(rows["fsdp",].values()) == pytest.approx(expected["fsdp"] + gradients, rel=0.03)
    # It sums the three gradients of the attention's input apart, where that for TPUs adds first.
    activations = 4 * (16 // 4) * 32 * 64
    assert sum(rows["tensor",].values()) == pytest.approx(expected["tensor"] + 2 * 6 * activations, rel=0.01)


def test_the_state_in_the_program_is_that_of_the_shardings(compiled):
    config, mesh, program = compiled
    held = state_bytes(config, mesh)
    tokens = 4 * (config.batch_size // 4) * (config.model.seq_len + 1)
    assert program.memory_analysis().argument_size_in_bytes == pytest.approx(held + tokens, abs=64)
    assert held == pytest.approx(12 * num_params_total(config.model) / 8, rel=0.01)
    assert step_memory(config, "cpu").state_bytes == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_a_preset_has_the_parameters_of_its_name(name):
    meant = {"124m": 124e6, "1b": 1e9, "8b": 8e9, "70b": 70e9, "405b": 405e9}.get(name, 1e12)
    config = preset(name)
    assert num_params_total(config.model) == pytest.approx(meant, rel=0.15 if name == "1b" else 0.03)
    assert config.model.compute_dtype == "bfloat16" and config.model.param_dtype == "float32"
    assert config.model.seq_len >= 4096 or name == "124m"
    for mesh in (MeshConfig(fsdp=64, tensor=4), MeshConfig(fsdp=64)):  # its widths divide
        assert dataclasses.replace(config, mesh=mesh, batch_size=1024).mesh == mesh


def test_the_trillion_of_experts_is_sparse():
    assert num_params_active(preset("1t-moe").model) < 0.06 * num_params_total(preset("1t-moe").model)


def test_the_search_prefers_what_fits_and_then_what_is_fast():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, experts=ExpertsConfig(4, group_size=8)))
    links = lambda mesh: dict.fromkeys(mesh.sizes, Links(1e9, 1.0, 1e9))  # noqa: E731
    sizes = sorted(item.memory.total_bytes for item in candidates(config, 8, CHIPS["v5e"], links, "tpu"))
    chip = dataclasses.replace(CHIPS["v5e"], hbm_bytes=sizes[len(sizes) // 2] / 0.85)
    found = candidates(config, 8, chip, links, "tpu")
    fits = [item.fits(chip) for item in found]
    assert any(fits) and not all(fits) and fits == sorted(fits, reverse=True)
    best = [round(item.utilisation, 3) for item in found if item.fits(chip)]
    assert best == sorted(best, reverse=True) and all(item.config.mesh.num_devices == 8 for item in found)


def test_a_roofline_waits_for_tensor_traffic_and_works_beside_the_rest():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=4, tensor=2))
    line = on_paper(config, CHIPS["v5e"], {"fsdp": Links(1e6, 1, 1e6), "tensor": Links(2e6, 1, 1e6)}, 0.0)
    sent = sent_bytes(config)
    assert line.seconds == pytest.approx(max(line.compute_seconds, sent["fsdp"] / 1e6) + sent["tensor"] / 2e6)
    assert line.limit == "traffic over fsdp"


def test_an_all_to_all_crosses_several_links_and_a_permute_uses_one():
    links = {"expert": Links(2e9, 4.0, 1e9)}  # a ring of 16
    assert send_seconds("all-to-all", 1e9, ["expert"], links) == 2.0
    assert send_seconds("all-gather", 1e9, ["expert"], links) == 0.5
    assert send_seconds("collective-permute", 1e9, ["expert"], links) == 1.0


def test_a_refusal_names_the_bytes():
    said = OutOfMemory(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 112.50G of 95.74G hbm. Exceeded"
    )
    assert (said.needed_bytes, said.available_bytes) == (112.5 * 2**30, 95.74 * 2**30)
    assert OutOfMemory("RESOURCE_EXHAUSTED: no figures").needed_bytes is None


def test_the_search_tries_what_the_backward_pass_may_keep_with_memory_as_the_limit():
    links = lambda mesh: dict.fromkeys(mesh.sizes, Links(1e15, 1.0, 1e15))  # noqa: E731
    chip = dataclasses.replace(CHIPS["v5e"], hbm_bandwidth=1e18)

    def by_name(room):
        keeps = ("nothing", "attention", "products")
        found = candidates(CONFIG, 1, dataclasses.replace(chip, hbm_bytes=room), links, "tpu", keeps)
        return {item.config.model.remat_keeps: item for item in found}

    ample = by_name(1e12)
    assert list(ample) == ["products", "attention", "nothing"]
    tight = by_name(1.01 * ample["attention"].memory.total_bytes / 0.85)  # 85 % of the memory may be filled
    assert list(tight) == ["attention", "nothing", "products"]


def test_a_quick_compile_asks_for_the_least_effort_and_leaves_the_setting_as_it_was():
    before = jax.config.jax_optimization_level
    with _least_effort():
        assert jax.config.jax_optimization_level == "O0" != before
        assert jax.jit(lambda x: x + 1).lower(1.0).compile()(1.0) == 2.0  # the compiler takes it
    assert jax.config.jax_optimization_level == before


def test_the_verb_reports_on_the_attached_devices(capsys):
    options = ["--mesh", "fsdp=4,tensor=2", "--batch-size", "8", "--seq-len", "64", "--json"]
    assert main(["compile", "124m", *options]) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["fits"] and report["num_devices"] == 8 and math.isclose(report["num_params_total"], 123_587_328)
    assert "compiling 124m" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["124"], "did you mean '124m'"),
        (["124m", "--topology", "v5q:4x4"], "unknown chip 'v5q'"),
        (["124m", "--mesh", "fsdp=3"], "has 8"),
        (["124m", "--mesh", "tensors=8"], "did you mean 'tensor'"),
        (["124m", "--batch-size", "3"], "no mesh of 8 devices splits a batch of 3"),
    ],
)
def test_a_wrong_name_gets_one_line_that_helps(arguments, words, capsys):
    assert main(["compile", *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said


def test_a_mesh_is_written_as_its_sizes():
    assert parse_mesh("fsdp=4, tensor=2") == MeshConfig(fsdp=4, tensor=2)
