"""Several processes train one run: who is who, and the numbers of one process."""

import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from kleiber.experiments.sweeping.worker import _stay_on_core
from kleiber.experiments.sweeping.workers import idle_cores_hint
from kleiber.model.config import ModelConfig
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.environment import process_in_environment
from kleiber.train.config import OptimizerConfig, TrainConfig

EXPERIMENT = """
from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.parallel.config import MeshConfig
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, TrainConfig


def experiment():
    model = ModelConfig(d_model=16, num_layers=1, num_heads=2, d_ff=32, seq_len=16)
    train = TrainConfig(
        model, optimizer=OptimizerConfig(3e-3), num_tokens=(1_280, 2_560), batch_size=8, steps_per_call=10,
        data=DataConfig(corpus="text.txt"), mesh=MeshConfig(data=2, fsdp=2, tensor=2), evaluation=EvalConfig(1024, 8),
    )
    return Experiment(name="hosts", question="Do hosts agree?", trunks=(train,))
"""


def launch(folder, out, process=None, count=2, port=0):
    variables = {} if process is None else {
        "KLEIBER_COORDINATOR": f"127.0.0.1:{port}",
        "KLEIBER_NUM_PROCESSES": str(count),
        "KLEIBER_PROCESS_ID": str(process),
        "KLEIBER_START_SECONDS": "120",
    }  # fmt: skip
    command = [sys.executable, "-m", "kleiber.experiments.cli", "train", "experiment.py", "--out", out]
    environment = {**os.environ, **variables}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def losses(folder):
    records = [json.loads(path.read_text()) for path in sorted((folder / "runs").glob("*/record.json"))]
    assert [record["status"] for record in records] == ["done"] * 2
    return [record["loss"] for record in records]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_experiment(folder, **changes):
    """Writes EXPERIMENT and its text; changes replace what follows a field's equals sign."""
    experiment = EXPERIMENT
    for field, value in changes.items():
        experiment, count = re.subn(rf"{field}=[\w]+(\([^)]*\))?", f"{field}={value}", experiment)
        assert count == 1, field
    words = np.array(["alpha", "beta", "gamma", "delta", "scaling", "law", "of", "the", "model"])
    lines = (" ".join(row) for row in words[np.random.default_rng(0).integers(0, 9, (600, 60))])
    folder.mkdir(exist_ok=True)
    (folder / "experiment.py").write_text(experiment)
    (folder / "text.txt").write_text("\n\n".join(lines))


def test_two_processes_of_four_devices_train_what_one_of_eight_trains(tmp_path):
    write_experiment(tmp_path)
    alone = launch(tmp_path, "one")
    said, _ = alone.communicate(timeout=400)
    assert alone.returncode == 0, said
    port = free_port()
    processes = [launch(tmp_path, "two", number, port=port) for number in (0, 1)]
    ends = [(process.communicate(timeout=400)[0], process.returncode) for process in processes]
    assert [code for _, code in ends] == [0, 0], ends
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_three_devices_share_a_batch_of_validation_that_does_not_divide_among_them(tmp_path):
    for name, mesh in (("three", "MeshConfig(data=3)"), ("one", "MeshConfig()")):
        write_experiment(tmp_path / name, mesh=mesh, batch_size=6)
        said, _ = launch(tmp_path / name, "out").communicate(timeout=300)
        assert b"Traceback" not in said, said.decode()
    assert losses(tmp_path / "three" / "out") == pytest.approx(losses(tmp_path / "one" / "out"), rel=1e-5)


def test_a_run_without_a_loss_is_told_without_a_traceback(tmp_path):
    write_experiment(tmp_path, mesh="MeshConfig()", optimizer="OptimizerConfig(1e30)")
    run = launch(tmp_path, "out")
    said, _ = run.communicate(timeout=300)
    assert b"Traceback" not in said, said.decode()
    assert said.splitlines()[-1].startswith(b"d16-L1") and b"diverged" in said.splitlines()[-1], said.decode()


@pytest.fixture
def machine(monkeypatch):
    """Makes this process see a number of cores, and an accelerator or none."""

    def pretend(num_cores=8, has_accelerator=False):
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)))
        monkeypatch.setattr("kleiber.parallel.environment.has_accelerator", lambda: has_accelerator)

    return pretend


@pytest.mark.parametrize(
    ("batch_size", "num_cores", "fields", "has_accelerator", "told"),
    [
        (16, 8, {}, False, "1 of 8 cores trains this run; --set mesh.data=8 shares its batch among 8"),
        (12, 8, {}, False, "1 of 8 cores trains this run; --set mesh.data=6 shares its batch among 6"),
        (7, 2, {}, False, ""),
        (16, 1, {}, False, ""),
        (
            16,
            8,
            {"accumulation_steps": 4},
            False,
            "1 of 8 cores trains this run; --set mesh.data=4 shares its batch among 4",
        ),
        (16, 8, {"mesh": MeshConfig(data=2)}, False, ""),
        (16, 8, {}, True, ""),
    ],
)
def test_a_run_on_one_core_is_told_the_mesh_that_uses_the_idle_ones(
    machine, batch_size, num_cores, fields, has_accelerator, told
):
    machine(num_cores, has_accelerator)
    model = ModelConfig(d_model=16, num_layers=1, num_heads=2, seq_len=16)
    config = TrainConfig(model, OptimizerConfig(3e-3), num_tokens=(2_560,), batch_size=batch_size, **fields)
    assert idle_cores_hint(config) == told


def test_a_worker_stays_on_one_core_where_it_computes_on_cpu_and_keeps_all_where_it_feeds_an_accelerator(
    machine, monkeypatch
):
    stays = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: stays.append(cores))
    machine(has_accelerator=True)
    _stay_on_core(3)
    assert stays == []
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    _stay_on_core(3)
    assert stays == [{3}]
    machine(has_accelerator=False)
    _stay_on_core(9)
    assert stays == [{3}, {1}]
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    _stay_on_core(0)
    assert stays == [{3}, {1}]


def test_a_process_without_a_launcher_is_alone(monkeypatch):
    for name in ("KLEIBER_COORDINATOR", "KLEIBER_NUM_PROCESSES", "KLEIBER_PROCESS_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert process_in_environment() == (0, 1)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert process_in_environment() == (3, 4)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"KLEIBER_COORDINATOR": "a:1"}, "KLEIBER_COORDINATOR set, but not KLEIBER_NUM_PROCESSES, KLEIBER_PROCESS_ID"),
        ({"KLEIBER_COORDINATOR": "a:1", "KLEIBER_NUM_PROCESSES": "2", "KLEIBER_PROCESS_ID": "2"}, "expected 0 to 1"),
        ({"KLEIBER_COORDINATOR": "a:1", "KLEIBER_NUM_PROCESSES": "two", "KLEIBER_PROCESS_ID": "0"}, "'two'"),
    ],
)
def test_a_launcher_that_contradicts_itself_is_told(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        process_in_environment()
