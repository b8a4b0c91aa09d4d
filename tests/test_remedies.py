"""Claims about remedies: each one that the doctor or a refusal prints is typed as printed, and ends in health with the
numbers of a sweep that nothing befell. In place of training stands the function of config and text of test_chain.
"""

import json
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from test_chain import LENGTHS, WIDTHS, FakePool, World, config, launch, numbers_of

from kleiber.experiments.directory.doctor import diagnose
from kleiber.experiments.directory.record import read_records
from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.experiments.sweeping.follow import lead_launch
from kleiber.files import read_json, write_json
from kleiber.scaling.fitting.result import read_fits

GATE = Gate(max_error=9, max_interval=9, max_residual_rms=9, requires_inside=False)
TARGET = Target("big", config(32, (204_800,), 0.01, 5))


def experiment(rate: float = 0.01, **changes) -> Experiment:
    trunks = tuple(config(width, LENGTHS, rate) for width in WIDTHS)
    settings = {"targets": (TARGET,), "laws": ("chinchilla",), "gate": GATE}
    return Experiment("remedies", "?", trunks, **{**settings, **changes})


class WithoutCheckpoints(World):
    """A world in which nothing stops halfway, so that the doctor finds no checkpoint to read."""

    has_checkpoints = False


def typed(directory: Path, **options):
    """Types the line that made the directory."""
    return launch(experiment(), directory, WithoutCheckpoints(), **options)


def facts(directory: Path) -> tuple:
    """Every number that a sweep leaves."""
    summary = numbers_of(read_json(directory / "result.json"))
    losses = {record.run_id: record.loss for record in read_records(directory)}
    return summary, losses, read_fits(directory)[0][0].parameters


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("remedies") / "out"
    assert typed(directory).exit_code == 0
    return directory


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A finished sweep, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def follow(remedy: str, path: Path, directory: Path) -> None:
    """Does what a remedy says, up to the line that is typed after it."""
    if command := re.search(r"take it out: (.*)", remedy):
        subprocess.run(command[1], shell=True, check=True)
        return
    assert re.match(r"remove (it|the file|both|its folder)\b", remedy), remedy
    paths = [path.parent if "its folder" in remedy else path]
    paths += [directory / "table.parquet"] if "remove both" in remedy else []
    paths += [directory / "result.json"] if "and result.json" in remedy else []
    for each in paths:
        shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "of another shape": lambda path: path.write_text("[]"),
    "without its keys": lambda path: path.write_text("{}"),
    "too deep": lambda path: path.write_text("[" * 100_000),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
FILES = (
    *(
        "experiment.json",
        "fit.json",
        "result.json",
        "plan.json",
        "made_with.json",
        "table.parquet",
        "ledger.jsonl.head",
    ),
    *("runs/d8-*-D6400/record.json", "runs/d32-*-D204800/record.json", "runs/d32-*/begun.json"),
)
HARMLESS = {(name, "without its keys") for name in ("result.json", "plan.json", "made_with.json")}
"""Where an empty object says nothing wrong."""
CASES = [(file, damage) for file in FILES for damage in DAMAGES if (file, damage) not in HARMLESS]


def damaged(out: Path, file: str, damage: str) -> Path:
    path = min(out.glob(file))
    DAMAGES[damage](path)
    return path


@pytest.mark.parametrize(("file", "damage"), CASES)
def test_what_the_doctor_says_of_a_damaged_file_ends_in_health_with_the_same_numbers(finished, out, file, damage):
    path = damaged(out, file, damage)
    (finding,) = (each for each in diagnose(out).findings if each.kind == "damaged")
    assert finding.path == path.relative_to(out).as_posix()
    follow(finding.remedy, path, out)
    assert typed(out).exit_code == 0
    assert diagnose(out).is_healthy and facts(out) == facts(finished)


@pytest.mark.parametrize(("file", "damage"), [case for case in CASES if case[1] not in ("cut", "of another shape")])
def test_a_line_beside_a_damaged_file_goes_on_or_says_which_to_remove_and_goes_on_then(finished, out, file, damage):
    path = damaged(out, file, damage)
    try:
        result = typed(out)
    except (ValueError, IsADirectoryError) as refusal:
        assert str(path) in str(refusal)
        assert re.search(r"[Rr]emove (it|the file)|move it out of the way", str(refusal)) or path.is_dir(), refusal
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        result = typed(out)
    assert result.exit_code == 0 and facts(out) == facts(finished)


def edited(path: Path, **changes) -> None:
    """Changes a record by hand, and leaves the seal out, as a release without seals wrote it."""
    row = {**read_json(path), **changes}
    path.write_text(json.dumps(row))


@pytest.mark.parametrize(
    "changes", [{"loss": -1.0}, {"loss": 10**400}, {"loss": 0.5}, {"num_tokens": 7}, {"bits": 10**30}]
)
@pytest.mark.parametrize("file", ["runs/d8-*-D6400/record.json", "runs/d32-*-D204800/record.json"])
def test_a_record_changed_by_hand_is_named_and_measured_again(finished, out, file, changes):
    path = min(out.glob(file))
    edited(path, **changes)
    found = [each for each in diagnose(out).findings if each.kind == "damaged"]
    assert {each.path for each in found} == {path.relative_to(out).as_posix()}
    follow(found[0].remedy, path, out)
    assert typed(out).exit_code == 0 and diagnose(out).is_healthy and facts(out) == facts(finished)


def test_an_outcome_that_differs_from_its_record_is_named_by_doctor_and_sweep_even_once_the_table_was_written(
    finished, out
):
    path = min(out.glob("runs/d32-*-D204800/record.json"))
    write_json(path, {**read_json(path), "loss": 0.5})
    for _ in range(2):  # the first writes the table anew from that record
        with pytest.raises(ValueError, match=rf"was changed after it was scored. Remove {path} and type the same line"):
            typed(out)
    (finding,) = (each for each in diagnose(out).findings if each.kind == "damaged")
    assert finding.path.endswith("-D204800/record.json") and "was scored in ledger.jsonl" in finding.what
    path.unlink()
    assert typed(out).exit_code == 0 and diagnose(out).is_healthy and facts(out) == facts(finished)


def test_a_ledger_without_its_head_is_noted(out):
    (out / "ledger.jsonl.head").unlink()
    (finding,) = diagnose(out).findings
    assert (finding.path, finding.kind) == ("ledger.jsonl.head", "note")


def test_an_experiment_without_laws_says_nothing_of_the_laws_of_the_one_before(out):
    plain = experiment(0.003, laws=(), targets=())
    shutil.rmtree(out / "runs")
    summary = launch(plain, out, WithoutCheckpoints()).summary
    assert any("forecast of big" in line and "is withdrawn" in line for line in summary["told"])
    assert not (out / "fit.json").exists() and len(list(out.glob("fit.*.json"))) == 1
    with_seed = launch(plain, out.with_name("fresh"), WithoutCheckpoints()).summary
    assert summary["answer"] == with_seed["answer"] and summary["runs"] == with_seed["runs"]


def test_the_options_that_a_fit_without_a_law_names_are_those_of_the_command_that_is_named(tmp_path):
    out = tmp_path / "out"
    typed(out)
    path = min(out.glob("runs/d8-*-D6400/record.json"))
    write_json(path, {**read_json(path), "loss": 0.0})
    (out / "result.json").unlink()
    (item,) = typed(out).summary["gate"]
    (command,) = re.findall(r"kleiber (fit \S+)\)", item["claim"])
    (drop,) = re.findall(r"(--drop '[^']+')", item["claim"])
    from kleiber.experiments.cli import main

    assert main(shlex.split(f"{command} {drop} --no-in-depth --starts 2")) == 0


MOVES = {"removed": shutil.rmtree, "moved": lambda out: out.rename(out.with_name("elsewhere"))}


@pytest.mark.parametrize("how", MOVES)
@pytest.mark.parametrize("patience", [0, 4, 15])
def test_a_directory_that_goes_away_while_it_is_worked_in_is_not_written_again_and_the_same_line_goes_on(
    finished, tmp_path, how, patience
):
    out, run = tmp_path / "out", FakePool.run

    def gone(pool, on_tick):
        pool.world.patience = patience if pool.split == "fit" else 0
        if run(pool, on_tick) == 0:
            return 0
        MOVES[how](out)
        pool.messages.append(f"cannot write under {out}: it was moved or removed")
        return 74

    with patch.object(FakePool, "run", gone):
        assert typed(out).exit_code == 74
    assert not out.exists()
    if how == "moved":
        out.with_name("elsewhere").rename(out)
    assert typed(out).exit_code == 0
    assert diagnose(out).is_healthy and facts(out) == facts(finished)


def test_a_lead_whose_directory_went_away_writes_nothing_there(tmp_path):
    out = tmp_path / "out"
    out.mkdir()

    class Result:
        exit_code = 74

    lead_launch(out, lambda: (shutil.rmtree(out), Result())[1])
    assert not out.exists()


LINE = """
import sys
sys.path.insert(0, {tests!r})
from test_remedies import experiment
"""


def start(tmp_path: Path, **options) -> subprocess.Popen:
    """Starts the real line in a process of its own."""
    path = tmp_path / "mine.py"
    path.write_text(LINE.format(tests=str(Path(__file__).parent)))
    line = [sys.executable, "-m", "kleiber.experiments.cli", "sweep", str(path), "--out", str(tmp_path / "out")]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


@pytest.mark.parametrize("moment", ["", "sweep.lock", "experiment.json", "log.txt"])
def test_a_sweep_killed_in_its_first_second_goes_on_by_the_same_line(finished, tmp_path, moment):
    process = start(tmp_path)
    while process.poll() is None and not (tmp_path / "out" / moment).exists():
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    out = tmp_path / "out"
    (out / ".experiment.json.12345").write_text("{")  # what a kill within the write leaves
    assert typed(out).exit_code == 0
    assert diagnose(out).is_healthy and facts(out) == facts(finished)


@pytest.mark.parametrize("limit", [10, 4_000])
def test_a_disk_full_in_the_first_second_is_told_and_the_same_line_goes_on(finished, tmp_path, limit):
    process = start(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    said = process.communicate()[0]
    assert process.returncode == 74 and "make room, then type the same line" in said, said
    out = tmp_path / "out"
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert typed(out).exit_code == 0
    assert diagnose(out).is_healthy and facts(out) == facts(finished)
