"""Every option of a run does something: each field has a claim that fails where the option is left unread.

One rich run, with almost every option away from its default, is the run of a slow clear version (slow_run.py). The
claim of an option is then that the slow version without it gives other numbers; or a shape or a number of steps by
hand; or, where the option has a good test elsewhere already, the name of that test.
"""

import dataclasses
import functools
import json
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import config_page
import jax
import numpy as np
import pytest
from slow_run import slow_logits, slow_run

from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.functional import abstract_params, apply, init_params, init_params_on_device
from kleiber.parallel.config import MeshConfig
from kleiber.train.checkpoints import checkpoint
from kleiber.train.checkpoints.replicas import SilentCorruption
from kleiber.train.config import DataConfig, EvalConfig, GuardConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from kleiber.train.data.run_data import open_run_data
from kleiber.train.data.tokens import TokenFile
from kleiber.train.data.windows import TokenSource, open_tokens
from kleiber.train.trunk import Diverged, Trunk, TrunkIO

MODEL = ModelConfig(
    d_model=8, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=12, vocab_size=32, seq_len=6,
    experts=ExpertsConfig(4, 3, 1, 0.75, 3, False, balance_loss=0.3, router_z_loss=0.2),
    activation="silu", is_gated=True, norm="layernorm", has_norm_gain=True, has_qk_norm=True, positions="learned",
    has_previous_token_mix=True, has_tied_head=False, dropout=0.1, parametrization="completep", base_d_model=4,
    base_num_layers=1, base_num_heads=1, has_scanned_layers=True,
)  # fmt: skip
RICH = TrainConfig(
    MODEL, OptimizerConfig(0.4, beta1=0.8, beta2=0.9, epsilon=0.01, weight_decay=0.5, clip_norm=0.2),
    num_tokens=(480, 768), batch_size=8, seed=3, data=DataConfig(num_unique_tokens=180, max_epochs=5),
    schedule=ScheduleConfig(warmup_steps=3, cooldown_fraction=0.5, cooldown_shape="linear"),
    evaluation=EvalConfig(60, 5), loss_blocks=3, accumulation_steps=2, z_loss=0.1, steps_per_call=2,
    checkpoint_seconds=0.0, keep_checkpoints=3, stops_when_saving_fails=False,
    guard=GuardConfig(spike_sigmas=0.5, spike_window=2, skip_batches=((1, 3),)),
)  # fmt: skip
"""Steps of 8 x 6 tokens: branches of 10 and 16 steps, of which the last half cools down."""


def source(split, seq_len):
    draw = np.random.default_rng(["train", "validation"].index(split))
    tokens = (np.cumsum(draw.integers(1, 4, 1201)) % 32).astype(np.uint8)
    file = TokenFile(tokens, np.array([0, 1201]), np.zeros(1, np.int32), "bytes", 32, 1201, "x/0")
    return TokenSource(file, seq_len, "test", split)


@dataclass(frozen=True)
class RichRun:
    """What a run of RICH told."""

    points: dict[int, Any]
    rows: list[dict[str, Any]]
    folder: Path
    loops: set[tuple[int, ...]]
    """Leading sizes of what the run looped over by jax.lax.map."""
    warnings: str


def trunk_of(config, folder, points=None):
    io = TrunkIO(folder, [folder], (points if points is not None else []).append, lambda num_tokens: False)
    return Trunk([config], open_run_data(config), io)


@pytest.fixture(scope="module", autouse=True)
def tokens_of_no_corpus():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kleiber.train.data.run_data.open_tokens", lambda data, split, seq_len: source(split, seq_len))
        yield


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    folder, points, loops, told, failures = tmp_path_factory.mktemp("rich"), [], set(), [], [1]
    loop, handler = jax.lax.map, logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())

    def watched(function, xs):
        loops.add(jax.tree.leaves(xs)[0].shape[:2])
        return loop(function, xs)

    def full_once(stage):
        if stage == "commit" and failures:
            raise OSError(failures.pop(), "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "map", watched)
        patch.setattr(checkpoint, "on_stage", full_once)
        logging.getLogger("kleiber").addHandler(handler)
        trunk_of(RICH, folder, points).run()
        logging.getLogger("kleiber").removeHandler(handler)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return RichRun({point.num_tokens: point for point in points}, rows, folder, loops, "\n".join(told))


@functools.cache
def slow(config):
    return slow_run(config, source("train", 6), source("validation", 6))


@functools.cache
def parameters():
    rng, params = np.random.default_rng(0), init_params(MODEL, 0)
    return jax.tree.map(lambda x: (x + 0.3 * rng.standard_normal(x.shape)).astype(x.dtype), params)


@functools.cache
def logits():
    return np.asarray(jax.jit(apply, static_argnums=0)(MODEL, parameters(), source("train", 6).windows(0)[None, :6])[0])


def changed(config, path, value):
    """Returns config with the field at a dotted path changed."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


def differs(without):
    """The claim that the validation loss of the rich run needs the option: `without` is what it would be unread."""

    def claim(rich, path):
        found = rich.points[768].evaluation.loss
        assert found == pytest.approx(slow(RICH)[2], abs=2e-5)
        assert abs(slow(changed(RICH, path, without))[2] - found) > 2e-4

    return claim


def gives_logits(without):
    """The claim that the logits of the rich model need the option."""

    def claim(rich, path):
        tokens = source("train", 6).windows(0)[:6]
        np.testing.assert_allclose(logits(), slow_logits(MODEL, parameters(), tokens), atol=1e-4)
        other = slow_logits(changed(RICH, path, without).model, parameters(), tokens)
        assert np.abs(other - logits()).max() > 1e-2

    return claim


def shapes(name, *shape):
    """The claim that a weight of the rich model has the shape worked out by hand."""

    def claim(rich, path):
        weights = jax.tree_util.tree_leaves_with_path(abstract_params(MODEL))
        found = {jax.tree_util.keystr(at, simple=True, separator="/"): weight.shape for at, weight in weights}
        assert found[name] == shape

    return claim


def holds(of_run):
    """The claim that a fact of the rich run, worked out by hand, holds."""

    def claim(rich, path):
        assert of_run(rich)

    return claim


def elsewhere(file, name):
    """The claim that a test elsewhere fails where the option is left unread."""

    def claim(rich, path):
        assert re.search(rf"^def {name}\(", (Path(__file__).parent / file).read_text(), re.MULTILINE)

    return claim


def kept_steps(rich):
    return checkpoint.steps(rich.folder / "checkpoints" / "trunk")


def opens_text(rich, path):
    """The bytes of a corpus are its text, and pieces of it are as many as asked for."""
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz   "), (400, 200))
    text = "\n\n".join("".join(row) for row in letters)
    (rich.folder / "own.txt").write_text(text)
    own = DataConfig(str(rich.folder / "own.txt"))
    assert bytes(open_tokens(own, "train", 6).file.tokens[:100].astype(np.uint8)).split(b"\n")[0].decode() in text
    pieces = open_tokens(replace(own, tokenizer="sentencepiece:1000"), "train", 6)
    assert pieces.vocab_size == 1000 and pieces.bytes_per_token > 1.5


def is_allowed(rich, path):
    with pytest.raises(ValueError, match=r"allowed"):
        open_run_data(changed(RICH, path, 4.0))
    assert open_run_data(RICH)


def draws_on_the_device(rich, path):
    config = replace(RICH, initialisation="device", accumulation_steps=1)
    drawn = trunk_of(config, rich.folder / "device").initial.params
    expected = jax.jit(init_params_on_device, static_argnums=0)(MODEL, jax.random.key(config.seed))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), drawn, expected)


def finds_a_device_that_errs(rich, path):
    config = replace(RICH, mesh=MeshConfig(data=2), checks_replicas=True, model=replace(MODEL, experts=None))
    trunk = trunk_of(config, rich.folder / "replicas")
    step = trunk.initial.step
    copies = [jax.device_put(np.int32(value), device) for value, device in enumerate(step.devices())]
    errs = replace(trunk.initial, step=jax.make_array_from_single_device_arrays((), step.sharding, copies))
    with pytest.raises(SilentCorruption, match="step"):
        trunk.saver.start(rich.folder / "replicas", 1, errs, {})


def stops_after(rich, path):
    """The first step throws the loss far up, and every one after it is a spike."""
    model = replace(MODEL, num_layers=1, experts=None, has_scanned_layers=False, dropout=0.0)
    guard = GuardConfig(max_consecutive_skips=3, spike_sigmas=1e-3, spike_window=2)
    config = replace(RICH, model=model, guard=guard, optimizer=OptimizerConfig(10.0))
    with pytest.raises(Diverged, match="3 updates in a row were skipped, the last at step 4"):
        trunk_of(config, rich.folder / "stops").run()


SAME_BYTES = "test_runs_of_two_tokenizers_are_scored_on_the_same_bytes_and_runs_of_one_as_before"
MESH = elsewhere("test_parallel.py", "test_the_compiled_step_moves_what_its_axis_should_and_nothing_else")
PRODUCTS = elsewhere("test_counts.py", "test_products_of_the_compiled_step_are_exactly_those_counted")
PRECISION = elsewhere("test_precision.py", "test_every_precision_learns_what_float32_learns")
CLIPPING = elsewhere("test_step.py", "test_gradients_above_the_limit_are_brought_to_it_and_others_left_alone")
REPLICAS = elsewhere("test_delayed_sync.py", "test_replicas_part_between_synchronisations_and_meet_at_them")
HIDDEN = elsewhere("test_masked.py", "test_a_row_hides_just_as_many_tokens_in_whole_spans_and_keeps_the_others")
OUTER_STEP = elsewhere("test_delayed_sync.py", "test_one_inner_step_and_a_plain_outer_step_is_data_parallel_sgd")
HUGGING_FACE = elsewhere(
    "test_huggingface.py",
    "test_the_architecture_that_a_folder_names_has_the_logits_of_the_model_and_of_what_is_read",
)
OF_COMMAND = elsewhere(
    "test_command.py", "test_a_record_holds_what_the_program_measured_and_the_sizes_that_it_was_given"
)

CLAIMS = {
    "model.d_model": shapes("input/embedding", 32, 8),
    "model.num_layers": shapes("blocks/attention/query", 2, 8, 8),
    "model.num_heads": gives_logits(2),
    "model.num_kv_heads": shapes("blocks/attention/key", 2, 8, 4),
    "model.d_ff": shapes("blocks/feed_forward/up", 2, 4, 8, 12),
    "model.vocab_size": shapes("head", 8, 32),
    "model.seq_len": shapes("input/positions", 6, 8),
    "model.experts.num_experts": shapes("blocks/feed_forward/router", 2, 8, 4),
    "model.experts.num_active": gives_logits(2),
    "model.experts.num_shared": shapes("blocks/feed_forward/shared/up", 2, 8, 12),
    "model.experts.capacity_factor": gives_logits(1.25),
    "model.experts.group_size": gives_logits(None),
    "model.experts.has_normalised_weights": gives_logits(True),
    "model.experts.balance_loss": differs(0.01),
    "model.experts.router_z_loss": differs(0.001),
    "model.activation": gives_logits("relu_squared"),
    "model.is_gated": gives_logits(False),
    "model.norm": gives_logits("rmsnorm"),
    "model.has_norm_gain": gives_logits(False),
    "model.has_qk_norm": gives_logits(False),
    "model.positions": gives_logits("rotary"),
    "model.has_previous_token_mix": gives_logits(False),
    "model.has_tied_head": gives_logits(True),
    "model.dropout": differs(0.0),
    "model.parametrization": gives_logits("inverse_width"),
    "model.base_d_model": gives_logits(32),
    "model.base_num_layers": gives_logits(2),
    "model.base_num_heads": gives_logits(None),
    "model.param_dtype": elsewhere(
        "test_model.py",
        "test_bfloat16_policy_computes_in_bfloat16_and_keeps_parameters_logits_and_gradients_in_float32",
    ),
    "model.compute_dtype": PRECISION,
    "model.has_float8_products": PRECISION,
    "model.has_scanned_layers": shapes("blocks/attention/output", 2, 8, 8),
    "model.has_remat": PRODUCTS,
    "model.attention_blocks": PRODUCTS,
    "model.attention_kernel": elsewhere(
        "test_attention.py", "test_a_step_for_gpus_calls_the_attention_of_cudnn_forward_and_backward"
    ),
    "model.remat_keeps": PRODUCTS,
    "optimizer.learning_rate": differs(0.01),
    "optimizer.name": CLIPPING,
    "optimizer.beta1": differs(0.9),
    "optimizer.beta2": differs(0.99),
    "optimizer.epsilon": differs(1e-8),
    "optimizer.weight_decay": differs(0.1),
    "optimizer.clip_norm": differs(1.0),
    "num_tokens": holds(
        lambda rich: [(n, point.num_steps) for n, point in rich.points.items()] == [(480, 10), (768, 16)]
    ),
    "batch_size": holds(lambda rich: [row["num_tokens"] for row in rich.rows][:2] == [96, 192]),
    "seed": differs(0),
    "data.corpus": opens_text,
    "data.tokenizer": opens_text,
    "data.document_attention": elsewhere(
        "test_step.py",
        "test_attention_within_documents_trains_on_packed_rows_as_on_rows_of_one_document_each",
    ),
    "data.num_unique_tokens": differs(None),
    "data.max_epochs": is_allowed,
    "schedule.kind": elsewhere("test_schedule.py", "test_constant_never_cools_down"),
    "schedule.warmup_steps": differs(1),
    "schedule.cooldown_fraction": differs(0.2),
    "schedule.cooldown_shape": differs("1-sqrt"),
    "evaluation.num_tokens": holds(lambda rich: rich.points[768].evaluation.num_tokens == 60),
    "evaluation.batch_size": holds(lambda rich: (2, 5) in rich.loops),  # ten windows of six targets
    "evaluation.num_bytes": elsewhere(
        "test_answers.py", "test_runs_of_two_tokenizers_are_scored_on_the_same_bytes_and_runs_of_one_as_before"
    ),
    "mesh.replica": elsewhere("test_parallel.py", "test_replicas_meet_only_inside_the_synchronisation"),
    **{f"mesh.{axis}": MESH for axis in ("stage", "data", "fsdp", "expert", "context", "tensor")},
    "delayed_sync.num_replicas": REPLICAS,
    "delayed_sync.num_inner_steps": REPLICAS,
    "delayed_sync.outer_learning_rate": OUTER_STEP,
    "delayed_sync.outer_momentum": OUTER_STEP,
    "initialisation": draws_on_the_device,
    "loss_blocks": holds(lambda rich: (3, 4) in rich.loops),  # a micro-batch has four rows
    "accumulation_steps": differs(None),
    "z_loss": differs(0.0),
    "steps_per_call": holds(lambda rich: [row["step"] for row in rich.rows][:3] == [2, 4, 5]),
    "checkpoint_seconds": holds(lambda rich: kept_steps(rich) == [5, 7, 8]),
    "keep_checkpoints": holds(lambda rich: len(kept_steps(rich)) == 3),
    "stops_when_saving_fails": holds(lambda rich: "No space left" in rich.warnings),
    "checks_replicas": finds_a_device_that_errs,
    "guard.max_consecutive_skips": stops_after,
    "guard.spike_sigmas": differs(None),
    "guard.spike_window": differs(128),
    "guard.skip_batches": differs(()),
    "objective": elsewhere("test_objective.py", "test_the_names_in_the_config_are_the_rows_of_the_table"),
    "model.rotary_base": HUGGING_FACE,
    "model.norm_epsilon": HUGGING_FACE,
    "model.has_qk_norm_gain": HUGGING_FACE,
    "model.head_width": HUGGING_FACE,
    "model.family": elsewhere("test_families.py", "test_another_row_is_another_model_with_its_own_weights"),
    "model.has_next_token_mix": elsewhere(
        "test_masked.py", "test_the_next_token_mix_adds_the_embedding_after_each_place_within_its_document"
    ),
    "masking.rate": HIDDEN,
    "masking.span": HIDDEN,
    "command.line": elsewhere("test_command.py", "test_a_command_is_told_the_fields_of_its_trunk"),
    "command.columns": elsewhere("test_command.py", "test_columns_of_another_name_are_mapped_as_for_a_table"),
    "command.record": elsewhere("test_command.py", "test_another_file_may_be_the_record"),
    "command.num_params_total": OF_COMMAND,
    "command.num_params_non_embedding": OF_COMMAND,
    "command.num_cores": elsewhere("test_command.py", "test_a_program_of_two_cores_has_half_the_workers"),
    "command.max_silent_seconds": elsewhere(
        "test_command.py", "test_a_program_that_is_silent_is_ended_and_counts_as_an_attempt"
    ),
    **dict.fromkeys(
        [f"model.compression.{name}" for name in ("weight_bits", "table_bits", "group_size")],
        elsewhere("test_quantisation.py", "test_layers_read_what_the_tree_rounds_to_and_the_numbers_move"),
    ),
    "model.compression.number_format": elsewhere(
        "test_quantisation.py", "test_eight_bit_floats_are_those_of_the_format"
    ),
    "model.compression.has_clipped_scales": elsewhere(
        "test_quantisation.py", "test_a_clipped_scale_has_the_least_squared_error_of_its_grid"
    ),
    "model.compression.rounding": elsewhere(
        "test_gptq.py", "test_it_is_the_rounding_of_one_input_after_another_by_plain_loops"
    ),
    "model.compression.sparsity": elsewhere(
        "test_compress.py", "test_a_pruned_level_keeps_its_zeros_to_the_end_and_no_others"
    ),
    "model.compression.pattern": elsewhere(
        "test_compress.py", "test_pruning_leaves_the_largest_of_a_matrix_or_of_all_and_tables_whole"
    ),
    **dict.fromkeys(
        [f"model.compression.{name}" for name in ("rank_share", "factored")],
        elsewhere("test_low_rank.py", "test_a_model_of_low_rank_holds_narrow_factors_and_no_more_numbers_than_counted"),
    ),
    "model.compression.approximation": elsewhere(
        "test_low_rank.py", "test_whitened_factors_come_nearest_to_what_a_matrix_gives_and_plain_ones_to_its_entries"
    ),
    "compressed_from": elsewhere(
        "test_compress.py", "test_levels_that_share_a_trunk_have_the_losses_of_trunks_of_their_own"
    ),
    **dict.fromkeys(
        [f"model.adapter.{name}" for name in ("kind", "rank", "alpha", "targets")],
        elsewhere(
            "test_adapters.py",
            "test_logits_are_those_of_the_matrices_worked_out_by_hand_and_of_the_merged_tree",
        ),
    ),
    "model.adapter.num_virtual_tokens": elsewhere(
        "test_prompt_tuning.py", "test_it_counts_as_vectors_that_move_and_as_places_that_every_row_has_more"
    ),
    **dict.fromkeys(
        ("model.adapter.target_rank", "model.adapter.budget_steps"),
        elsewhere("test_adalora.py", "test_the_mean_rank_falls_by_a_cubic_between_its_two_steps"),
    ),
    "model.adapter.orthogonality": elsewhere(
        "test_adalora.py", "test_the_gradient_of_a_step_has_that_of_the_penalty_whatever_the_micro_batches"
    ),
    "data.mixture": elsewhere(
        "test_continual.py",
        "test_every_stretch_of_rows_has_the_shares_and_each_corpus_the_order_that_it_has_alone",
    ),
    "evaluation.also": elsewhere(
        "test_continual.py", "test_stages_are_trained_one_after_the_other_and_each_is_measured_on_every_text"
    ),
    "ewc.weight": elsewhere(
        "test_continual.py", "test_ewc_pulls_each_weight_back_by_its_fisher_entry_times_the_way_it_went"
    ),
    "ewc.num_tokens": elsewhere(
        "test_continual.py", "test_replay_and_ewc_forget_less_and_the_answer_says_what_that_costs"
    ),
    "optimizer.groups": elsewhere(
        "test_fine_tuning.py", "test_a_group_has_its_own_learning_rate_and_the_first_that_means_a_weight_counts"
    ),
    "optimizer.has_fixed_norms": elsewhere(
        "test_step.py", "test_a_matrix_of_fixed_norm_takes_steps_relative_to_it_and_other_weights_move_as_without"
    ),
    "measures_noise_scale": elsewhere("test_noise_scale.py", "test_the_record_tells_it_and_training_is_the_same"),
    "trainable": elsewhere(
        "test_fine_tuning.py",
        "test_weights_that_stay_are_those_of_the_start_to_the_last_bit_and_the_others_move",
    ),
    **dict.fromkeys(
        ("start.run", "start.digest"),
        elsewhere("test_fine_tuning.py", "test_a_finished_run_is_a_start_until_its_weights_are_others"),
    ),
    **dict.fromkeys(
        ("start.train", "start.num_tokens"),
        elsewhere(
            "test_fine_tuning.py",
            "test_a_sweep_trains_what_its_trunks_begin_with_once_and_says_so_in_each_record",
        ),
    ),
    **dict.fromkeys(
        ("model.image.side", "model.image.channels", "model.image.patch_size", "model.image.num_stages"),
        elsewhere("test_vision.py", "test_parameters_are_those_of_the_tree_and_flops_those_of_the_compiler"),
    ),
    **dict.fromkeys(
        ("model.encoder.num_layers", "model.encoder.seq_len"),
        elsewhere(
            "test_encoder_decoder.py",
            "test_products_of_the_compiled_step_are_those_counted",
        ),
    ),
    "data.augment": elsewhere(
        "test_vision.py", "test_a_shift_moves_an_image_by_at_most_an_eighth_and_a_flip_mirrors_it"
    ),
    **dict.fromkeys(
        [f"teacher.{name}" for name in ("run", "digest", "tokenizer", "model")],
        elsewhere("test_distillation.py", "test_a_finished_run_teaches_until_its_weights_are_others"),
    ),
    **dict.fromkeys(
        ("teacher.train", "teacher.num_tokens"),
        elsewhere("test_distillation.py", "test_a_sweep_trains_the_teacher_first_and_says_so_in_each_record"),
    ),
    **dict.fromkeys(
        ("teacher.weight", "teacher.temperature"),
        elsewhere("test_distillation.py", "test_the_training_loss_is_that_of_the_formula_by_hand"),
    ),
    "factors": elsewhere("test_counts.py", "test_a_planned_record_is_that_worked_out_by_hand"),
}


def paths(owner, prefix=""):
    """Returns the dotted path of every option under a config class."""
    for field in dataclasses.fields(owner):
        hint = get_type_hints(owner)[field.name]
        inner = (TrainConfig, ModelConfig) if prefix else (TrainConfig,)
        nested = [part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part) and part not in inner]
        for part in nested:
            yield from paths(part, f"{prefix}{field.name}.")
        if not nested:
            yield prefix + field.name


def test_every_option_has_a_claim_and_every_claim_an_option():
    assert set(paths(TrainConfig)) == CLAIMS.keys()


@pytest.mark.parametrize("path", CLAIMS)
def test_an_option_does_what_it_says(path, rich):
    CLAIMS[path](rich, path)


def test_the_losses_and_spikes_of_each_step_are_those_of_the_slow_version(rich):
    losses, skipped, _ = slow(RICH)
    assert 0 < sum(skipped) < 8
    rows = [row for row in rich.rows if row["segment"] in ("trunk", "branch_768")]
    assert [step for row in rows for step in row.get("skipped_steps", [])] == [i + 1 for i in np.flatnonzero(skipped)]
    first = 0
    for row in rows:
        steps = [i for i in range(first, row["step"]) if not skipped[i]]
        assert row["loss"] == (pytest.approx(np.mean([losses[i] for i in steps]), abs=2e-5) if steps else None)
        first = row["step"]


def test_the_page_of_all_fields_says_what_the_configs_say():
    written = config_page.PAGE.read_text(encoding="utf-8")
    assert written == config_page.page(), "python tests/config_page.py > docs/config.md"
    assert "| `batch_size` | `int` | `4` | Sequences per optimizer step" in written  # as train/config.py has it
