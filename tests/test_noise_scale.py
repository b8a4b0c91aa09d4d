"""Claims about the gradient noise scale: a known one is found, whatever the micro-batches and devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.experiments.directory.record import read_records
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.sweeping.sweep import run_sweep
from kleiber.model.config import ModelConfig
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.gradients import gradients
from kleiber.train.objective.table import OBJECTIVES, Objective
from kleiber.train.update.noise_scale import NOISE, SIGNAL, noise_scale

TINY = TrainConfig(
    model=ModelConfig(d_model=16, num_layers=1, num_heads=2, seq_len=32),
    optimizer=OptimizerConfig(learning_rate=0.01),
    num_tokens=(16384,),
    batch_size=8,
    accumulation_steps=2,
    measures_noise_scale=True,
    schedule=ScheduleConfig(warmup_steps=4),
    evaluation=EvalConfig(num_tokens=1024),
    steps_per_call=2,
)
DEVIATIONS, AT = np.array([3.0, 1.0, 0.5], np.float32), np.array([2.0, -1.0, 0.3], np.float32)


def quadratic(config, params, batch, key):
    """Half the squared distance of the weights to each row: its gradient is the row's distance."""
    return 0.5 * jnp.sum(jnp.square(params["w"] - batch.inputs), -1), None, 0.0, {}


@pytest.mark.parametrize(("rows", "parts", "data"), [(8, 2, 1), (8, 8, 1), (32, 2, 8)])
def test_of_a_quadratic_it_is_the_trace_of_the_covariance_over_the_squared_gradient(monkeypatch, rows, parts, data):
    monkeypatch.setitem(OBJECTIVES, "next_token", Objective(quadratic, lambda config: ()))
    config = dataclasses.replace(TINY, batch_size=rows, accumulation_steps=parts, mesh=MeshConfig(data=data))
    rng = np.random.default_rng(0)
    with use_mesh(make_mesh(config.mesh)):
        step = jax.jit(lambda x: gradients(config, {"w": jnp.asarray(AT)}, Batch(inputs=x), None)[0])
        texts = rng.standard_normal((2000, rows, 3)).astype(np.float32) * DEVIATIONS
        log = [{name: float(value) for name, value in step(x).items()} for x in texts]
    scale, error = noise_scale(log, seq_len=32)
    assert scale == pytest.approx(32 * np.sum(DEVIATIONS**2) / np.sum(AT**2), rel=0.05)
    assert 0 < error < 0.05 * scale and {NOISE, SIGNAL} <= set(log[0])


def test_its_error_is_the_spread_of_the_scale_between_logs():
    rng = np.random.default_rng(1)
    logs = [[{NOISE: n, SIGNAL: s} for n, s in rng.normal((5, 2), (1, 0.4), (64, 2))] for _ in range(400)]
    found = np.array([noise_scale(log, 1) for log in logs])
    assert np.sqrt(np.mean(found[:, 1] ** 2)) == pytest.approx(np.std(found[:, 0]), rel=0.1)


def test_a_log_that_does_not_tell_has_none():
    rows = [{NOISE: 1.0, SIGNAL: -0.1}] * 20
    assert noise_scale(rows, 1) is None and noise_scale([{NOISE: 1.0, SIGNAL: 1.0}] * 7, 1) is None
    assert noise_scale([{"loss": 1.0}] * 20, 1) is None


def test_the_record_tells_it_and_training_is_the_same(tmp_path):
    text, rng = tmp_path / "text.txt", np.random.default_rng(0)
    text.write_text("\n\n".join(" ".join(f"{n % 97} of {n}" for n in rng.integers(0, 999, 40)) for _ in range(100)))
    told = dataclasses.replace(TINY, data=DataConfig(str(text)))
    for name, config in (("with", told), ("without", dataclasses.replace(told, measures_noise_scale=False))):
        experiment = Experiment(name="noise", question="?", trunks=(config,), laws=())
        run_sweep(experiment, tmp_path / name, 1, is_quiet=True, has_report=False)
    (measured,), (other,) = read_records(tmp_path / "with"), read_records(tmp_path / "without")
    assert measured.loss == pytest.approx(other.loss, rel=1e-6) and other.noise_scale_tokens is None
    assert measured.noise_scale_tokens > 0 and measured.noise_scale_standard_error > 0


def test_one_micro_batch_has_nothing_to_compare():
    with pytest.raises(ValueError, match=r"accumulation_steps 1: .* set accumulation_steps to 2 or more"):
        dataclasses.replace(TINY, accumulation_steps=1)
