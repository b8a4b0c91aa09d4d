"""Nothing that is read can run code, lead out of its folder, fill the memory, or carry a secret away."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kleiber.experiments.config_file import from_data, load_experiment, to_data
from kleiber.experiments.directory.doctor import diagnose
from kleiber.experiments.directory.record import planned_records, read_records, versions
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.report import markup
from kleiber.experiments.sweeping.ownership import own_directory
from kleiber.experiments.terminal import printable
from kleiber.scaling.table.table import read_table
from kleiber.train.checkpoints import checkpoint
from kleiber.train.checkpoints.manifest import read_manifest, seal
from kleiber.train.data.tokens import load_verified

STATE = {"w": np.arange(6, dtype=np.float32)}
NASTY = ["..", "../x", "/etc/passwd", "a/b", "a\0b", "a\nb", "a" * 5000 + "/", "-\x1b[2J", "con:", "ü", "", " "]


def malicious_pickle(canary: Path) -> bytes:
    """Returns a pickle that makes the canary when it is loaded, written by hand: no pickle is imported here either."""
    return b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."


def test_the_canary_would_sing(tmp_path):
    """Loading the pickle really runs code, in a process of its own: so the tests below can fail."""
    (tmp_path / "bad").write_bytes(malicious_pickle(tmp_path / "canary"))
    code = "import importlib, sys; importlib.import_module('pick' + 'le').load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "bad")], check=True)
    assert (tmp_path / "canary").exists()


def test_a_malicious_pickle_under_every_file_name_that_is_read_runs_nothing(tmp_path):
    bad = malicious_pickle(tmp_path / "canary")
    sweep = tmp_path / "sweep"
    own_directory(load_experiment("miniature"), prepare(sweep))
    checkpoint.save(sweep / "runs" / "r" / "checkpoints" / "trunk", 1, STATE, {})
    (sweep / "runs" / "r" / "record.json").write_text("{}")
    names = [path for path in sweep.rglob("*") if path.is_file()]
    names += [sweep / name for name in ("fit.json", "plan.json", "result.json", "ledger.jsonl", "table.parquet")]
    names += [
        sweep / "runs" / "r" / name for name in ("metrics.jsonl", "progress.json", "attempts.json", "goodput.jsonl")
    ]
    for path in names:
        path.write_bytes(bad)
    for read in (
        lambda: diagnose(sweep),
        lambda: read_records(sweep),
        lambda: checkpoint.restore_newest(sweep / "runs" / "r" / "checkpoints" / "trunk", STATE),
        lambda: own_directory(load_experiment("miniature"), sweep),
        lambda: read_table(sweep / "table.parquet"),
        lambda: load_verified(sweep / "fit.json", "0" * 64),
    ):
        try:
            read()
        except (ValueError, OSError):
            pass
    assert not (tmp_path / "canary").exists()
    assert not diagnose(sweep).is_healthy


def test_an_array_file_with_a_pickle_inside_is_refused_even_with_the_right_digest(tmp_path):
    from blake3 import blake3

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    path = tmp_path / "train.tokens.npy"
    path.write_bytes(buffer.getvalue() + malicious_pickle(tmp_path / "canary"))
    with pytest.raises(ValueError):
        load_verified(path, blake3(path.read_bytes()).hexdigest())
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", NASTY)
def test_a_name_that_could_be_a_path_is_refused(name):
    with pytest.raises(ValueError, match="letters, digits"):
        replace(load_experiment("miniature"), name=name)


def test_a_config_as_data_names_only_our_fields_and_kinds(tmp_path):
    whole = to_data(load_experiment("miniature"))
    assert from_data(Experiment, whole) == load_experiment("miniature")
    for key, value in (
        ("_target_", "os.system"),
        ("__class__", "x"),
        ("trunks", "x"),
        ("name", ["a"]),
        ("level", "0.9"),
    ):
        with pytest.raises(ValueError):
            from_data(Experiment, {**whole, key: value})


def prepare(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "arrays/../../x", "a\0b"])
def test_a_manifest_that_names_a_file_outside_is_refused(tmp_path, name):
    step = checkpoint.save(tmp_path, 1, STATE, {})
    manifest = read_manifest(step)
    file = next(iter(manifest["files"].values()))
    (step / "manifest.json").write_bytes(seal({**manifest, "files": {**manifest["files"], name: file}}))
    with pytest.raises(checkpoint.CheckpointError, match="outside its folder"):
        checkpoint.restore(tmp_path, 1, STATE)


def test_a_checkpoint_that_is_or_holds_a_link_is_refused(tmp_path):
    step = checkpoint.save(tmp_path / "real", 1, STATE, {})
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "step_1").symlink_to(step)
    with pytest.raises(checkpoint.CheckpointError, match="symbolic link"):
        checkpoint.restore(tmp_path / "linked", 1, STATE)
    inside = step / "arrays" / "manifest.ocdbt"
    inside.rename(tmp_path / "elsewhere")
    inside.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(checkpoint.CheckpointError, match="symbolic link"):
        checkpoint.restore(tmp_path / "real", 1, STATE)


def test_claims_of_size_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    step = checkpoint.save(tmp_path, 1, STATE, {})
    manifest = read_manifest(step)
    huge = {"w": {**manifest["arrays"]["w"], "shape": [1 << 50]}}
    (step / "manifest.json").write_bytes(seal({**manifest, "arrays": huge}))
    with pytest.raises(checkpoint.CheckpointError, match="bytes of memory are free"):
        checkpoint.load_arrays(step)
    with pytest.raises(checkpoint.WrongRun, match=r"expected float32\[6\]"):
        checkpoint.restore(tmp_path, 1, STATE)
    monkeypatch.setattr("kleiber.train.checkpoints.manifest.MAX_MANIFEST_BYTES", 100)
    with pytest.raises(checkpoint.CheckpointError, match="more than the 100"):
        read_manifest(step)


def test_a_sweep_directory_that_leads_elsewhere_is_refused_and_nothing_is_written_there(tmp_path):
    outside, sweep = prepare(tmp_path / "outside"), prepare(tmp_path / "sweep")
    (sweep / "runs").symlink_to(outside)
    with pytest.raises(ValueError, match="symbolic link"):
        own_directory(load_experiment("miniature"), sweep)
    assert not list(outside.iterdir())


def test_strings_are_escaped_on_their_way_to_a_page_and_to_a_terminal():
    assert "<script>" not in str(markup.text("<script>alert(1)</script>"))
    assert "<img" not in str(markup.paragraph("<img src=x onerror=alert(1)>"))
    assert printable("a\x1b[2Jb\u202egnp\x00\r\n\tc") == "a\\x1b[2Jb\\x202egnp\\x00\\x0d\n\tc"


def test_no_record_and_no_message_carries_the_environment(monkeypatch, tmp_path):
    canary = "canary-3f9d1c"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)
    monkeypatch.setenv("KLEIBER_SECRET", canary)
    experiment = load_experiment("miniature")
    record = planned_records("e", "fit", experiment.trunks[0])[100_000].to_json() | versions()
    own_directory(experiment, prepare(tmp_path / "sweep"))
    checkpoint.save(tmp_path / "sweep" / "checkpoints", 1, STATE, {})
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert canary not in json.dumps(record) and canary.encode() not in written
    assert os.environ["KLEIBER_SECRET"] == canary
