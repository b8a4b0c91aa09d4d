"""Claims about the values of a config: nonsense is refused where it is made, with the value and what was expected."""

import math
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from kleiber.experiments.config_file import from_data, load_experiment, set_field, shipped, to_data
from kleiber.experiments.experiment import RECORD_COLUMNS, Experiment, Gate
from kleiber.experiments.planning.plan import make_plan
from kleiber.model.config import ExpertsConfig, ModelConfig
from kleiber.train.config import OptimizerConfig, TrainConfig

NONSENSE = [
    ("num_tokens", (25_600.5,), "num_tokens is (25600.5,), expected a whole number, at least 1."),
    ("num_tokens", (), "num_tokens is empty"),
    ("num_tokens", (0,), "num_tokens is (0,), expected at least 1."),
    ("num_tokens", 25_600, "num_tokens is 25600, expected a list."),
    ("batch_size", 0, "batch_size is 0, expected at least 1."),
    ("batch_size", -4, "batch_size is -4, expected at least 1."),
    ("batch_size", True, "batch_size is True, expected a whole number, at least 1."),
    ("seed", -1, "seed is -1, expected 0 <= seed < 4294967296."),
    ("seed", 2**32, "seed is 4294967296, expected 0 <= seed < 4294967296."),
    ("steps_per_call", 0, "steps_per_call is 0, expected at least 1."),
    ("loss_blocks", 0, "loss_blocks is 0, expected at least 1."),
    ("accumulation_steps", 0, "accumulation_steps is 0, expected at least 1"),
    ("keep_checkpoints", 0, "keep_checkpoints is 0, expected at least 1."),
    ("checkpoint_seconds", -1.0, "checkpoint_seconds is -1.0, expected at least 0."),
    ("z_loss", math.nan, "z_loss is nan, expected at least 0."),
    ("z_loss", -1.0, "z_loss is -1.0, expected at least 0."),
    ("model", None, "model is None, expected a ModelConfig."),
    ("schedule.warmup_steps", -5, "warmup_steps is -5, expected at least 0."),
    ("schedule.cooldown_fraction", 1.5, "cooldown_fraction is 1.5, expected 0 <= cooldown_fraction <= 1."),
    ("schedule.cooldown_fraction", -0.5, "cooldown_fraction is -0.5, expected 0 <= cooldown_fraction <= 1."),
    ("schedule.kind", "wds", "kind is 'wds', expected wsd or cosine or constant; did you mean 'wsd'?"),
    ("optimizer.name", "adam", "expected adamw or sgd or adafactor or muon; did you mean 'adamw'?"),
    ("optimizer.beta1", 1.5, "beta1 is 1.5, expected 0 <= beta1 < 1."),
    ("optimizer.beta2", 1, "beta2 is 1, expected 0 <= beta2 < 1."),
    ("optimizer.beta2", -1, "beta2 is -1, expected 0 <= beta2 < 1."),
    ("optimizer.epsilon", -1, "epsilon is -1, expected a positive number."),
    ("optimizer.epsilon", 0.0, "epsilon is 0.0, expected a positive number."),
    ("optimizer.clip_norm", 0, "clip_norm is 0, expected a positive number (None does not clip)."),
    ("optimizer.clip_norm", -1, "clip_norm is -1, expected a positive number (None does not clip)."),
    ("optimizer.weight_decay", -1, "weight_decay is -1, expected at least 0."),
    ("optimizer.learning_rate", math.inf, "learning_rate is inf, expected a positive number."),
    ("optimizer.learning_rate", math.nan, "learning_rate is nan, expected a positive number."),
    ("optimizer.learning_rate", "0.01", "learning_rate is '0.01', expected a positive number."),
    ("evaluation.num_tokens", 0, "num_tokens is 0, expected at least 1."),
    ("evaluation.batch_size", 0, "batch_size is 0, expected at least 1."),
    ("data.max_epochs", 0.0, "max_epochs is 0.0, expected a positive number."),
    ("data.num_unique_tokens", 0, "num_unique_tokens is 0, expected at least 1 (None is the whole corpus)."),
    ("model.vocab_size", 0, "vocab_size is 0, expected at least 1."),
    ("model.d_model", 16.5, "d_model is 16.5, expected a whole number, at least 1."),
    ("model.num_layers", 0, "num_layers is 0, expected at least 1."),
    ("model.base_num_heads", 0, "base_num_heads is 0, expected at least 1"),
    ("model.dropout", 1.0, "dropout is 1.0, expected 0 <= dropout < 1."),
    ("model.norm", "rms", "norm is 'rms', expected rmsnorm or layernorm; did you mean 'rmsnorm'?"),
    ("model.is_gated", "yes", "is_gated is 'yes', expected a bool."),
    ("model.param_dtype", "float16", "param_dtype is float16 with optimizer 'adamw'"),
    ("mesh.data", 1.5, "data is 1.5, expected a whole number."),
    ("guard.spike_sigmas", 0.0, "spike_sigmas is 0.0, expected a positive number (None is no rule)."),
    ("guard.spike_window", 1, "spike_window is 1, expected at least 2."),
]


@pytest.fixture(scope="module")
def experiment():
    return load_experiment("miniature")


def with_value(config, path, value):
    """Returns config with the field at a dotted path replaced."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: with_value(getattr(config, name), rest, value) if rest else value})


@pytest.mark.parametrize(("path", "value", "message"), NONSENSE, ids=[f"{path}={value}" for path, value, _ in NONSENSE])
def test_nonsense_is_refused_where_it_is_made(experiment, path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        with_value(experiment.trunks[0], path, value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("level", 1.5, "level is 1.5, expected 0 < level < 1."),
        ("level", math.nan, "level is nan, expected 0 < level < 1."),
        ("level", 0.0, "level is 0.0, expected 0 < level < 1."),
        ("gate.max_error", math.nan, "max_error is nan, expected at least 0."),
        ("gate.max_interval", math.inf, "max_interval is inf, expected at least 0."),
        ("population_size", 0, "population_size is 0, expected at least 1."),
        ("assumed.alpha", -0.5, "alpha is -0.5, expected a positive number."),
        ("laws", "chinchilla", "laws is 'chinchilla', expected a list."),
        ("trunks", (1,), "expected a TrainConfig."),
    ],
)
def test_nonsense_in_an_experiment_is_refused_where_it_is_made(experiment, path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        with_value(experiment, path, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_active": 3}, "3 active of 2"), ({"num_shared": -1}, "at least 0"), ({"capacity_factor": 0}, "positive")],
)
def test_nonsense_experts_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ExpertsConfig(**{"num_experts": 2, **change})


def test_a_misspelt_law_is_refused_by_the_plan_with_the_nearest(experiment):
    with pytest.raises(ValueError, match="no law 'chinchila'. Did you mean 'chinchilla'"):
        make_plan(replace(experiment, laws=("chinchila",)), 1)


@pytest.mark.parametrize(
    "name",
    [
        "seed",
        "num_params_total",
        "split",
        "loss",
        "Loss",
        "Run ID",
        "state",
        "-",
        "jax_version",
        "data_fingerprint",
        "",
    ],
)
def test_a_factor_named_like_a_column_of_the_record_is_refused(experiment, name):
    trunk = replace(experiment.trunks[0], factors=((name, 5.0),))
    with pytest.raises(ValueError, match=f"a factor is named '{name}'"):
        replace(experiment, trunks=(trunk,))


def test_two_factors_of_one_name_are_refused(experiment):
    trunk = replace(experiment.trunks[0], factors=(("bits", 8), ("bits", 4)))
    with pytest.raises(ValueError, match="a factor is named 'bits', expected names unlike each other"):
        replace(experiment, trunks=(trunk,))


def test_every_column_that_the_documentation_names_is_kept_from_factors():
    page = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
    text = page.split("\n## The run record")[1].split("\n", 1)[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", text)) - {"null"} == RECORD_COLUMNS


def test_whole_floats_lists_and_numpys_numbers_become_plain_ones(experiment):
    given = replace(
        experiment.trunks[0],
        num_tokens=[25.6e3, np.int64(51_200)],
        batch_size=np.int32(4),
        optimizer=OptimizerConfig(np.float64(0.01)),
    )
    plain = replace(
        experiment.trunks[0], num_tokens=(25_600, 51_200), batch_size=4, optimizer=OptimizerConfig(learning_rate=0.01)
    )
    assert given == plain and hash(given) == hash(plain)
    numbers = [*given.num_tokens, given.batch_size, given.optimizer.learning_rate]
    assert [type(number) for number in numbers] == [int, int, int, float]
    assert from_data(TrainConfig, to_data(given)) == plain


def test_a_whole_number_stays_one_where_a_fraction_could_stand(experiment):
    # The hash of a config, and so the name of its run, would change otherwise.
    assert type(OptimizerConfig(1).learning_rate) is int
    assert set_field(experiment.trunks[0], "optimizer.learning_rate=1").optimizer.learning_rate == 1.0


def test_every_shipped_value_is_sound_and_left_as_it_is():
    def leaves(config):
        for field in fields(config):
            value = getattr(config, field.name)
            yield from leaves(value) if is_dataclass(value) else [(field.name, value, type(value))]

    for name in shipped():
        found = load_experiment(name)
        assert list(leaves(from_data(Experiment, to_data(found)))) == list(leaves(found))


def test_float16_parameters_are_refused_with_adam_and_taken_with_sgd():
    model = ModelConfig(d_model=16, num_layers=1, num_heads=2, param_dtype="float16")
    with pytest.raises(ValueError, match="training diverges. Use param_dtype float32"):
        TrainConfig(model, OptimizerConfig(0.01), (1000,))
    assert TrainConfig(model, OptimizerConfig(0.01, name="sgd"), (1000,)).model is model


def test_a_gate_keeps_its_limits():
    assert Gate(max_error=9, max_interval=0.0).max_error == 9
