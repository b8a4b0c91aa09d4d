"""The one estimate of a step's memory: against what the compiler takes, and the same from both verbs that say it."""

import json

import pytest

from kleiber.experiments.cli import main
from kleiber.experiments.compilation.memory import step_memory
from kleiber.experiments.compilation.step import compile_step
from kleiber.experiments.configs import quickstart
from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.model.counts import num_params_total
from kleiber.model.encoder import EncoderConfig
from kleiber.parallel.mesh import make_mesh
from kleiber.train.config import OptimizerConfig, TeacherConfig, TrainConfig


def config(batch_size: int, teacher: TrainConfig | None = None, **model) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(**model),
        optimizer=OptimizerConfig(0.01),
        num_tokens=(10**6,),
        batch_size=batch_size,
        teacher=teacher and TeacherConfig(train=teacher),
    )


PAIRS = ModelConfig(64, 1, 4, seq_len=96, family="encoder_decoder", encoder=EncoderConfig(3, 160))
SHAPES = {
    "the smallest of quickstart": config(4, d_model=24, num_layers=2, num_heads=4, has_previous_token_mix=True),
    "a large vocabulary": config(3, d_model=48, num_layers=3, num_heads=6, vocab_size=3000, seq_len=96),
    "micro-batches, gated": config(16, d_model=128, num_layers=2, num_heads=4, is_gated=True, activation="silu"),
    "scanned and rematerialised": config(
        2, d_model=96, num_layers=5, num_heads=4, seq_len=256, has_scanned_layers=True, has_remat=True
    ),
    "scanned experts": config(
        4, d_model=32, num_layers=3, num_heads=2, experts=ExpertsConfig(8), has_scanned_layers=True
    ),
    "a teacher, and micro-batches": config(
        16, config(16, d_model=256, num_layers=2, num_heads=4), d_model=64, num_layers=2, num_heads=4
    ),
    "an encoder-decoder": TrainConfig(
        PAIRS, OptimizerConfig(0.01), (10**6,), batch_size=8, objective="sequence_to_sequence"
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_estimate_is_within_15_percent_of_the_compiled_program(name):
    program = compile_step(SHAPES[name], make_mesh(SHAPES[name].mesh)).compiled.memory_analysis()
    taken = program.argument_size_in_bytes + program.temp_size_in_bytes
    assert step_memory(SHAPES[name], "cpu").total_bytes == pytest.approx(taken, rel=0.15)


def test_plan_says_the_estimate_of_its_largest_run(capsys):
    main(["plan", "quickstart", "--json"])
    said = json.loads(capsys.readouterr().out)["memory_bytes"]
    largest = quickstart.train(128, (2_600_000,), 7)
    assert said == round(step_memory(largest, "cpu").total_bytes)


def test_a_step_of_few_tokens_takes_its_parameters_six_times_on_cpu():
    """Parameters, two moments, those copied, and a gradient; on an accelerator the moments are not copied."""
    tiny = config(1, d_model=256, num_layers=2, num_heads=4, seq_len=8)
    assert step_memory(tiny, "cpu").total_bytes == 6 * 4 * num_params_total(tiny.model)
    assert step_memory(tiny, "gpu").total_bytes == 4 * 4 * num_params_total(tiny.model)
