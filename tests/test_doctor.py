"""The doctor: damage is named with what can be saved; leftovers of a kill are no damage; nothing is changed."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from kleiber.experiments.config_file import load_experiment
from kleiber.experiments.directory.doctor import diagnose
from kleiber.experiments.directory.record import planned_records, record_path, versions, write_table
from kleiber.experiments.report.results import read_results
from kleiber.experiments.sweeping.ownership import own_directory
from kleiber.files import checked_line, read_json, write_json
from kleiber.scaling.forecasting.ledger import Ledger
from kleiber.train.checkpoints import checkpoint

STATE = {"w": np.arange(6, dtype=np.float32)}


@pytest.fixture
def sweep(tmp_path):
    """A sweep directory with one done run, two checkpoints of another, and everything whole."""
    directory = tmp_path / "sweep"
    directory.mkdir()
    experiment = load_experiment("miniature")
    own_directory(experiment, directory)
    config = experiment.trunks[0]
    record = replace(planned_records("miniature", "fit", config)[100_000], status="done", loss=2.5, **versions())
    write_json(record_path(directory, record.run_id), record.to_json())
    write_table(directory, [record])
    trunk = directory / "runs" / record.trunk_id
    for step in (3, 6):
        checkpoint.save(trunk / "checkpoints" / "trunk", step, STATE, {}, keep=2)
    rows = [{"step": step, "segment": "trunk", "loss": 3.0} for step in (3, 6)]
    (trunk / "metrics.jsonl").write_text("".join(map(checked_line, rows)))
    return directory


def damaged(directory):
    return {
        finding.path.split("/")[-1]: finding for finding in diagnose(directory).findings if finding.kind == "damaged"
    }


def test_a_whole_directory_is_healthy_and_stays_as_it_is(sweep):
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    diagnosis = diagnose(sweep)
    assert diagnosis.is_healthy and diagnosis.findings == ()
    assert diagnosis.checked["records"] == 1 and diagnosis.checked["checkpoints"] == 2
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before


def test_a_damaged_checkpoint_is_named_with_the_step_that_can_be_used(sweep):
    (path,) = sweep.glob("runs/*/checkpoints/trunk/step_6/arrays/manifest.ocdbt")
    path.write_bytes(b"\0" * path.stat().st_size)
    finding = damaged(sweep)["step_6"]
    assert "manifest.ocdbt" in finding.what and "step 3 is whole" in finding.remedy


def test_without_an_older_step_the_remedy_is_to_begin_that_part_again(sweep):
    for path in sweep.glob("runs/*/checkpoints/trunk/step_*/manifest.json"):
        path.write_text("{")
    assert "trained again from its start" in damaged(sweep)["step_3"].remedy


@pytest.mark.parametrize("content", ["{", "[]", '{"run_id": "other", "status": "done"}'])
def test_a_damaged_record_is_named(sweep, content):
    (path,) = sweep.glob("runs/*/record.json")
    path.write_text(content)
    assert "measured again" in damaged(sweep)["record.json"].remedy


def test_a_done_run_without_a_finite_loss_is_damage(sweep):
    (path,) = sweep.glob("runs/*/record.json")
    write_json(path, {**read_json(path), "loss": float("nan")})
    assert "loss is nan" in damaged(sweep)["record.json"].what


@pytest.mark.parametrize(
    ("record", "table", "wrong"),
    [
        ("sealed", "sealed", "table.parquet"),  # both as written, and the record is what a table is made from
        ("sealed", "plain", "table.parquet"),
        ("plain", "sealed", "record.json"),
        ("plain", "plain", "record.json"),  # nothing says which: both are named
        ("edited", "sealed", "record.json"),
    ],
)
def test_of_a_record_and_a_table_that_differ_the_one_without_a_whole_seal_is_the_wrong_one(sweep, record, table, wrong):
    (path,) = sweep.glob("runs/*/record.json")
    row = {**read_json(path), "loss": 2.4}
    if "plain" in (record, table):  # of a release that sealed none
        (sweep / "experiment.json").write_text(json.dumps(read_json(sweep / "experiment.json")))
    if record == "edited":
        path.write_text(path.read_text().replace('"loss": 2.5', '"loss": 2.4'))
    elif record == "sealed":
        write_json(path, row)
    else:
        path.write_text(json.dumps(row))
    if table == "plain":
        plain = pq.read_table(sweep / "table.parquet").replace_schema_metadata(None)
        pq.write_table(plain, sweep / "table.parquet")
    found = damaged(sweep)
    assert list(found) == [wrong]
    assert ("neither has a seal" in found[wrong].what) == (record == table == "plain")


def test_a_sweep_that_was_stopped_before_its_first_point_is_healthy(sweep):
    (record,) = sweep.glob("runs/*/record.json")
    record.unlink()
    write_table(sweep, [])
    assert diagnose(sweep).is_healthy
    assert not [gap for gap in read_results(sweep).gaps if "damaged" in gap]


def test_a_step_that_comes_twice_in_a_log_is_damage(sweep):
    (path,) = sweep.glob("runs/*/metrics.jsonl")
    path.write_text(path.read_text() + checked_line({"step": 3, "segment": "trunk"}))
    assert "step 3 of trunk comes again" in damaged(sweep)["metrics.jsonl"].what


def test_what_a_kill_leaves_is_no_damage(sweep):
    (log,) = sweep.glob("runs/*/metrics.jsonl")
    log.write_text(log.read_text() + '{"step": 9, "seg')
    (log.parent / "checkpoints" / "trunk" / "partial_9_1").mkdir()
    (sweep / "runs" / ".beat-1").touch()
    write_json(sweep / "sweep.json", {"pid": 999_999_999, "host": None, "since": "yesterday", "released": False})
    diagnosis = diagnose(sweep)
    assert diagnosis.is_healthy and len([f for f in diagnosis.findings if f.kind == "leftover"]) >= 3


def test_a_link_out_of_the_directory_is_damage(sweep, tmp_path):
    (sweep / "runs" / "elsewhere").symlink_to(tmp_path)
    assert "link out of the directory" in damaged(sweep)["elsewhere"].what


def test_the_command_exits_3_on_damage_and_prints_one_json_object(sweep):
    command = [sys.executable, "-m", "kleiber.experiments.cli", "doctor", str(sweep), "--json"]
    healthy = subprocess.run(command, capture_output=True, text=True)
    assert healthy.returncode == 0 and json.loads(healthy.stdout)["healthy"] is True
    assert set(json.loads(healthy.stdout)) == {"directory", "healthy", "checked", "findings"}
    (sweep / "fit.json").write_text("{")
    hurt = subprocess.run(command, capture_output=True, text=True)
    assert hurt.returncode == 3 and json.loads(hurt.stdout)["findings"][0]["path"] == "fit.json"


def test_a_directory_of_somebody_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of kleiber's"):
        diagnose(tmp_path)


def test_forecasts_are_counted_as_the_ledger_counts_them(sweep):
    ledger = Ledger(sweep / "ledger.jsonl")
    facts = {"num_params_total": 10, "num_tokens": 20, "flops": 1e3, "compute_ratio": 4.0, "law": "chinchilla"}
    ledger.register(target="wide", predicted_loss=2.0, interval=(1.9, 2.1), level=0.9, baselines={}, **facts)
    ledger.outcome("wide", "a-run", 2.05)
    assert diagnose(sweep).checked["forecasts"] == ledger.scoreboard()["num_forecasts"] == 1
