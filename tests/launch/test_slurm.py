"""One sweep on a Slurm of two nodes, made here: `make cluster`. A node is drained, a job preempted, the driver killed
on the way, and the table is that of a local run, bit for bit.

Not of the ordinary suite: it needs root, Slurm and munge (tests/launch/slurm.sh says which packages), and two minutes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from kleiber.experiments.directory.record import TIMING_COLUMNS
from kleiber.scaling.table.reading import read_file

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

EXPERIMENT = """
from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig


def train(d_model, num_tokens, seed):
    return TrainConfig(
        ModelConfig(d_model, num_layers=1, num_heads=2, seq_len=32), OptimizerConfig(0.01), num_tokens, batch_size=4,
        seed=seed, schedule=ScheduleConfig(warmup_steps=20), evaluation=EvalConfig(8_192), checkpoint_seconds=0.5,
        data=DataConfig("text.txt", max_epochs=999), steps_per_call=10,
    )


def experiment():
    tokens = (15_000, 30_000, 60_000)
    return Experiment(
        name="drill", question="Does a cluster change a number?", laws=("chinchilla",),
        trunks=tuple(train(d, tokens, 10 * d + seed) for seed in range(6) for d in (8, 16, 24, 32)),
        targets=(Target("larger", train(48, (100_000,), 0)),),
        gate=Gate(max_error=9.0, max_interval=99.0, max_residual_rms=9.0, requires_inside=False),
    )
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    script = str(Path(__file__).with_name("slurm.sh"))
    subprocess.run([script, "start", str(folder)], check=True)
    yield {"SLURM_CONF": str(folder / "slurm.conf"), "KLEIBER_QUEUE_SECONDS": "1"}
    subprocess.run([script, "stop", str(folder)], check=True)


@pytest.fixture
def place(tmp_path):
    words = "the a of and to in is you that it he was for on are as with his they I".split()
    picked = ((words[i * i % 19], words[i * 7 % 20], words[i * i * i % 17], "." * (i % 5)) for i in range(30_000))
    text = "".join(f"{one} {two} {three}{end}\n" for one, two, three, end in picked)
    (tmp_path / "text.txt").write_text(text.replace("....", ".\n"))
    (tmp_path / "drill.py").write_text(EXPERIMENT)
    return tmp_path


def sweep(place, slurm, out, *options):
    line = [sys.executable, "-m", "kleiber.experiments.cli", "sweep", "drill.py", "--out", out, "--no-report", *options]
    log = open(place / f"{out}.log", "a")
    return subprocess.Popen(line, cwd=place, env={**os.environ, **slurm}, stdout=log, stderr=log)


def asked(slurm, *line):
    return subprocess.run(line, env={**os.environ, **slurm}, capture_output=True, text=True).stdout


def wait_until(is_so, seconds=600):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def records(out):
    return len(list(out.glob("runs/*/record.json")))


def table(out):
    found = read_file(out / "table.parquet")
    return {name: list(values) for name, values in found.items() if name not in TIMING_COLUMNS}


def test_a_drained_node_a_preempted_job_and_a_killed_driver_change_no_number(place, slurm):
    assert sweep(place, slurm, "here").wait() == 0
    on = ("--launch", "slurm:partition=debug,time=10,jobs=3", "--workers", "1")
    driver = sweep(place, slurm, "there", *on)
    out = place / "there"
    wait_until(lambda: records(out) >= 6)
    asked(slurm, "scontrol", "update", "nodename=n2", "state=drain", "reason=drill")
    running = asked(slurm, "squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i").split()
    asked(slurm, "scontrol", "requeue", running[0])
    asked(slurm, "scancel", "--signal=USR2", running[1])  # as ahead of its time limit
    wait_until(lambda: records(out) >= 12)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = set(asked(slurm, "squeue", "--noheader", "--array", "--format=%i").split())
    assert before
    wait_until(lambda: records(out) >= 18)
    driver = sweep(place, slurm, "there", *on)
    assert driver.wait() == 0, (place / "there.log").read_text()
    asked(slurm, "scontrol", "update", "nodename=n2", "state=resume")
    assert table(out) == table(place / "here")
    steps = Counter(
        (path.parent.name, row["segment"], row["step"])
        for path in out.glob("runs/*/metrics.jsonl")
        for row in map(json.loads, path.read_text().splitlines())
    )
    assert set(steps.values()) == {1}  # no step is in a log twice
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries] == ["forecast", "outcome"]
    assert not entries[0].get("late")
    logs = "".join(path.read_text() for path in out.glob("jobs/slurm/*.out"))
    assert "DUE TO JOB REQUEUE" in logs and f"Requeued job {running[1]}" in logs


def test_a_directory_that_the_nodes_do_not_see_is_found_before_anything_is_trained(place, slurm):
    (place / "hidden").mkdir()
    sweep = f"{sys.executable} -m kleiber.experiments.cli sweep drill.py --out hidden/out --launch slurm:jobs=2"
    script = f"mount -t tmpfs none hidden && {sweep}; echo ended with $?; ls hidden/out/runs"
    said = asked(slurm, "unshare", "--mount", "--propagation", "private", "sh", "-c", f"cd {place} && {script}")
    assert "do the nodes of this cluster see that directory?" in said and said.endswith("ended with 2\n")


def test_a_partition_that_does_not_exist_makes_no_directory(place, slurm):
    assert sweep(place, slurm, "nowhere", "--launch", "slurm:partition=nowhere").wait() == 2
    assert "invalid partition specified: nowhere" in (place / "nowhere.log").read_text()
    assert not (place / "nowhere").exists()
