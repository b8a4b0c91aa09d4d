"""Sweeps as a user runs them: real processes, real kills, real files."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from kleiber.experiments.config_file import load_experiment
from kleiber.experiments.directory.doctor import diagnose
from kleiber.experiments.directory.record import TIMING_COLUMNS
from kleiber.experiments.report.drawing import Study
from kleiber.experiments.report.results import read_results
from kleiber.experiments.report.story import summary
from kleiber.experiments.sweeping.ownership import own_directory
from kleiber.files import read_json, write_json
from kleiber.scaling.fitting.result import read_fits
from kleiber.scaling.forecasting.ledger import Ledger

CONFIG = """
from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig


def train(d, tokens, seed, rate=0.01):
    model = ModelConfig(d_model=d, num_layers=1, num_heads=1, seq_len=32)
    return TrainConfig(model, OptimizerConfig(rate), tokens, batch_size=2, seed=seed, data=DataConfig({corpus!r}),
                       schedule=ScheduleConfig(warmup_steps=5), evaluation=EvalConfig(4096), checkpoint_seconds=0.2,
                       steps_per_call=16)


def experiment():
    return Experiment(
        name="drill", question="Does it survive?",
        trunks=tuple(train(d, (1_600, 3_200, 16_000), seed) for d in (4, 8, 12) for seed in (0, 1)){extra},
        targets=(Target("larger", train(16, (64_000,), 5)),), laws={laws},
        gate=Gate(max_error=9, max_interval=9, max_residual_rms=9, requires_inside=False),
    )
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A text of the user's own: 500 kB of sentences from a tiny grammar, some of it predictable."""
    draw = random.Random(0)
    nouns, verbs = ["model", "law", "token", "batch", "sweep", "mesh"], ["fits", "bends", "grows", "learns", "waits"]
    paragraphs = [
        " ".join(f"The {draw.choice(nouns)} {i % 97} {draw.choice(verbs)} the {draw.choice(nouns)}." for i in range(20))
        for _ in range(900)
    ]
    path = tmp_path_factory.mktemp("corpus") / "own.txt"
    path.write_text("\n\n".join(paragraphs))
    return path


def write_config(folder: Path, corpus: Path, extra: str = "", laws: str = '("chinchilla",)') -> Path:
    path = folder / "drill.py"
    path.write_text(CONFIG.format(corpus=str(corpus), extra=extra, laws=laws))
    return path


def command(config: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "kleiber.experiments.cli", "sweep", str(config), "--out", str(out), *more]


def sweep(config: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(config, out, *more), capture_output=True, text=True, timeout=240)


def is_true_soon(happened: Callable[[], object], process: subprocess.Popen) -> bool:
    """Waits until something has happened, for as long as a process lives, two minutes at most."""
    deadline = time.monotonic() + 120
    while not happened() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(happened())


def rows(out: Path) -> list[dict]:
    table = pq.read_table(out / "table.parquet")
    return table.drop_columns([name for name in TIMING_COLUMNS if name in table.column_names]).to_pylist()


def kill_everything(process: subprocess.Popen, out: Path) -> None:
    """SIGKILL to the driver and to every worker of the sweep, as a machine that loses power would."""
    import psutil

    victims = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for victim in victims:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> tuple[Path, Path]:
    """(config, sweep directory) of a sweep left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write_config(folder, corpus)
    done = sweep(config, folder / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    return config, folder / "out"


def test_a_sweep_measures_every_planned_point_and_scores_a_forecast_made_before_its_target(undisturbed):
    _, out = undisturbed
    table = rows(out)
    assert len(table) == 19 and all(row["status"] == "done" and row["loss"] > 0 for row in table)
    assert all(0 <= row["split_overlap"] < 1 for row in table)
    assert {row["num_tokens"] for row in table if row["split"] == "fit"} == {1_600, 3_200, 16_000}
    events = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["forecast", "outcome"]
    assert len(Ledger(out / "ledger.jsonl").entries()) == 2
    (target,) = (row["trunk_id"] for row in table if row["split"] == "target")
    assert (out / "fit.json").stat().st_mtime <= (out / "runs" / target / "config.json").stat().st_mtime
    observed = next(row["loss"] for row in table if row["split"] == "target")
    assert events[1]["observed_loss"] == observed
    assert events[1]["signed_error"] == pytest.approx(events[0]["predicted_loss"] / observed - 1)


def test_killed_at_three_random_moments_it_ends_with_the_very_same_table(undisturbed, tmp_path):
    config, alone = undisturbed
    draw, out = random.Random(1), tmp_path / "out"
    for num_points in sorted(draw.sample(range(1, 19), 3)):
        log = open(tmp_path / "out.txt", "a")
        process = subprocess.Popen(command(config, out, "--no-report"), stdout=log, stderr=log)
        assert is_true_soon(lambda num=num_points: len(list(out.glob("runs/*/record.json"))) >= num, process)
        time.sleep(draw.uniform(0.0, 1.0))
        kill_everything(process, out)
    done = sweep(config, out, "--no-report")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(out) == rows(alone)


def test_a_finished_sweep_starts_nothing_and_says_the_same(undisturbed):
    config, out = undisturbed
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    again = sweep(config, out)
    said = summary(Study(read_results(out)))["headline"]
    assert again.stdout.splitlines()[-1] == said == read_json(out / "result.json")["headline"]
    assert said.startswith("Forecast ") and "measured" in said  # it has a target: that is the answer
    assert again.returncode == 0 and "forecast" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before


def test_what_the_doctor_says_of_a_damaged_file_ends_in_health_with_the_same_numbers(undisturbed, tmp_path):
    config, done = undisturbed
    out = tmp_path / "out"
    shutil.copytree(done, out)
    record = next(out.glob("runs/d4-L1-s0-*-D3200/record.json"))
    for path in (record, out / "fit.json", out / "plan.json", out / "table.parquet"):
        path.write_bytes(path.read_bytes()[:-60])
    findings = [finding for finding in diagnose(out).findings if finding.kind == "damaged"]
    assert len(findings) == 4 and all(finding.remedy.startswith("remove it and ") for finding in findings)
    for finding in findings:
        (out / finding.path).unlink()
        if "result.json" in finding.remedy:
            (out / "result.json").unlink(missing_ok=True)
    again = sweep(config, out, "--no-report")
    assert again.returncode == 0, again.stdout + again.stderr
    assert diagnose(out).is_healthy and rows(out) == rows(done)
    assert read_fits(out)[0][0].parameters == read_fits(done)[0][0].parameters


def test_ctrl_c_saves_says_how_to_go_on_and_exits_75(undisturbed, tmp_path):
    config, alone = undisturbed
    line = command(config, tmp_path / "out", "--no-report")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert is_true_soon(lambda: list((tmp_path / "out").glob("runs/*/progress.json")), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "the same line goes on" in output
    assert sweep(config, tmp_path / "out", "--no-report").returncode == 0
    assert rows(tmp_path / "out") == rows(alone)


def without(alone: Path, out: Path, *trunks: str) -> None:
    """Copies a finished sweep and leaves out some trunks, as if they had not begun."""
    shutil.copytree(alone, out)
    for row in rows(alone):
        if row["trunk_id"] in trunks:
            shutil.rmtree(out / "runs" / row["run_id"], ignore_errors=True)
            shutil.rmtree(out / "runs" / row["trunk_id"], ignore_errors=True)


def test_a_worker_that_waits_for_the_trunks_of_others_is_not_taken_for_frozen(undisturbed, tmp_path):
    """One worker, two trunks to train, one of them held by somebody else for three times the limit of a hang."""
    config, alone = undisturbed
    out = tmp_path / "out"
    fits = [row["trunk_id"] for row in rows(alone) if row["split"] == "fit"]
    mine, held = dict.fromkeys(fits).keys() & {fits[0], fits[-1]}
    without(alone, out, mine, held)
    (out / "runs" / held).mkdir()
    with FileLock(out / "runs" / held / "claim.lock"):
        process = subprocess.Popen(
            command(config, out, "--workers", "1", "--no-report"),
            env={**os.environ, "KLEIBER_HANG_SECONDS": "4"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert is_true_soon(lambda: list((out / "runs").glob(f"{mine}/goodput.jsonl")), process)
        time.sleep(12)
    assert process.wait(timeout=200) == 0
    assert "starting it again" not in (out / "log.txt").read_text()
    assert rows(out) == rows(alone)


def test_a_second_launch_in_the_same_directory_leaves_and_says_who_is_there(undisturbed, tmp_path):
    config, alone = undisturbed
    out, trunk = tmp_path / "out", rows(alone)[0]["trunk_id"]
    without(alone, out, trunk)
    (out / "runs" / trunk).mkdir()
    line = command(config, out, "--no-report")
    with FileLock(out / "runs" / trunk / "claim.lock"):  # so the first has not ended when the second comes
        first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert is_true_soon(lambda: read_json(out / "sweep.json")["pid"] == first.pid, first)
        second = sweep(config, out)
    assert second.returncode == 2 and f"pid {first.pid} " in second.stderr
    assert first.wait(timeout=200) == 0
    assert rows(out) == rows(alone)


def test_a_directory_of_another_experiment_is_refused_with_the_difference(undisturbed, corpus, tmp_path):
    _, out = undisturbed
    changed = tmp_path / "changed.py"
    changed.write_text(write_config(tmp_path, corpus).read_text().replace("rate=0.01", "rate=0.02"))
    refused = sweep(changed, out)
    assert refused.returncode == 2
    assert "trunks[0].optimizer.learning_rate: 0.01 -> 0.02" in refused.stderr


def test_a_directory_in_which_nothing_was_trained_takes_a_corrected_config(tmp_path):
    experiment = load_experiment("miniature")
    own_directory(experiment, tmp_path)
    own_directory(replace(experiment, name="corrected"), tmp_path)
    assert json.loads((tmp_path / "experiment.json").read_text())["name"] == "corrected"
    (tmp_path / "runs" / "one").mkdir(parents=True)
    with pytest.raises(ValueError, match="belongs to another experiment"):
        own_directory(experiment, tmp_path)


def test_a_failed_run_means_exit_code_3_and_a_damaged_checkpoint_is_told_on_the_screen(undisturbed, tmp_path):
    config, alone = undisturbed
    out = tmp_path / "out"
    shutil.copytree(alone, out)
    first, last = (row for row in rows(alone)[:: len(rows(alone)) - 2][:2])
    path = out / "runs" / first["run_id"] / "record.json"
    write_json(path, {**read_json(path), "status": "failed", "reason": "by hand", "loss": None})
    shutil.rmtree(out / "runs" / last["run_id"])
    newest = max((out / "runs" / last["trunk_id"] / "checkpoints" / "trunk").iterdir(), key=lambda p: int(p.name[5:]))
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"?")
    done = sweep(config, out, "--no-report")
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"{first['trunk_id']} failed, 1 point: by hand" in done.stdout and "--retry-failed" in done.stdout
    assert f"warning: {newest}" in done.stdout and "differs from its digest" in done.stdout


def test_diverged_and_failed_cells_are_typed_and_kept_while_the_others_finish(corpus, tmp_path):
    extra = " + (train(4, (1_600, 3_200), 9, rate=1e6),)"
    config = write_config(tmp_path, corpus, extra, laws="()")
    text = config.read_text().replace('targets=(Target("larger", train(16, (64_000,), 5)),),', "")
    config.write_text(text)
    line = command(config, Path("out"), "--no-report")
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(tmp_path / "out")
    diverged = [row for row in table if row["status"] == "diverged"]
    assert {row["num_tokens"] for row in diverged} == {1_600, 3_200}
    assert all(row["loss"] is None and "loss" in row["reason"] for row in diverged)
    assert sum(row["status"] == "done" for row in table) == 18


def test_a_corpus_shorter_than_the_plan_is_refused_before_anything_runs(corpus, tmp_path):
    config = write_config(tmp_path, corpus)
    config.write_text(config.read_text().replace("64_000", "9_000_000"))
    refused = sweep(config, tmp_path / "out")
    assert refused.returncode == 2 and "epochs" in refused.stderr and "max_epochs" in refused.stderr
    assert not (tmp_path / "out" / "runs").exists()


def test_a_fixed_ratio_design_is_refused_with_the_reason(corpus, tmp_path):
    config = write_config(tmp_path, corpus)
    text = config.read_text()
    start, end = text.index("trunks="), text.index("targets=")
    fixed = "trunks=tuple(train(d, (12_800 * d // 4,), s) for d in (4, 8, 12) for s in (0, 1, 2)),\n        "
    config.write_text(text[:start] + fixed + text[end:])
    plan = subprocess.run(
        [sys.executable, "-m", "kleiber.experiments.cli", "plan", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "400"},
    )
    assert plan.returncode == 2 and "cannot be told apart" in plan.stdout


POPULATION = """
from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig


def experiment():
    trunks = tuple(
        TrainConfig(ModelConfig(d_model=4, num_layers=1, num_heads=1, seq_len=32), OptimizerConfig(rate),
                    (640, 1_280), batch_size=2, seed=seed, data=DataConfig({corpus!r}),
                    schedule=ScheduleConfig(warmup_steps=5), evaluation=EvalConfig(4096), steps_per_call=16)
        for seed in (0, 1) for rate in (0.002, 0.004, 1e6)
    )
    return Experiment(name="p", question="?", trunks=trunks, laws=(), population_size={size})
"""


def test_a_population_measures_what_its_members_measure_alone_and_one_bad_member_spoils_no_other(corpus, tmp_path):
    tables = []
    for size in (1, 6):
        config = tmp_path / f"p{size}.py"
        config.write_text(POPULATION.format(corpus=str(corpus), size=size))
        done = sweep(config, tmp_path / f"out{size}", "--no-report")
        assert done.returncode == 0, done.stdout + done.stderr
        tables.append({row["run_id"]: row for row in rows(tmp_path / f"out{size}")})
    alone, together = tables
    assert alone.keys() == together.keys() and len(list((tmp_path / "out6" / "runs").glob("population-6-*"))) == 1
    for name, row in alone.items():
        assert together[name]["status"] == row["status"]
        assert row["status"] == ("diverged" if row["learning_rate"] == 1e6 else "done")
        if row["loss"]:
            # Twenty steps: the other rounding of batched products grows with every step.
            assert together[name]["loss"] == pytest.approx(row["loss"], rel=1e-4)
