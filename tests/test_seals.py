"""Claims about seals: one flipped bit of what holds a result is never another number, and the doctor names the file.

KLEIBER_FLIPS sets how many bits of each file are flipped; from 400 on the doctor looks at every one that does harm.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kleiber.experiments.cli import main
from kleiber.experiments.config_file import from_data, to_data
from kleiber.experiments.directory.doctor import diagnose
from kleiber.experiments.directory.record import cell_problem, planned_records, read_record, record_path, write_table
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.sweeping.lock import DirectoryLock
from kleiber.experiments.sweeping.ownership import allowed_fields
from kleiber.files import read_json, sealed_text, write_json
from kleiber.model.config import ModelConfig
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import read_fits
from kleiber.scaling.table.table import read_table
from kleiber.train.checkpoints.manifest import file_digest
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.corpora.catalogue import find_corpus
from kleiber.train.data.tokens import open_token_file, tokens_folder
from kleiber.train.watch.goodput import Goodput, read_events
from kleiber.train.watch.metrics import Metrics, whole_rows

NUM_FLIPS = int(os.environ.get("KLEIBER_FLIPS", "120"))
LOOKED_AT = 1 if NUM_FLIPS >= 400 else 12
"""The doctor looks at the whole directory each time: at one harmful flip of so many."""
TRUNKS = tuple(
    TrainConfig(ModelConfig(d, 1, 1), OptimizerConfig(0.01), (20_000, 60_000, 200_000), seed=seed)
    for seed, d in enumerate((8, 16, 24))
)
EXPERIMENT = Experiment("sealed", "Does a flipped bit show?", TRUNKS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """What a sweep of three trunks leaves behind, its losses drawn from a law."""
    folder = tmp_path_factory.mktemp("sealed")
    draw = np.random.default_rng(0)
    records = []
    for config in TRUNKS:
        for planned in planned_records("sealed", "fit", config).values():
            loss = 1.5 + 30 / planned.num_params_total**0.4 + 200 / planned.num_tokens**0.5 + 0.01 * draw.random()
            records.append(replace(planned, status="done", loss=loss, epochs=0.1))
            write_json(record_path(folder, planned.run_id), records[-1].to_json())
    write_json(folder / "experiment.json", to_data(EXPERIMENT))
    write_json(folder / "plan.json", {"experiment": "sealed", "seconds": {"fit": 12.5}, "flops": 3.2e11})
    write_json(folder / "result.json", {"experiment": "sealed", "runs": {"done": 9}, "gate": [], "exit_code": 0})
    write_table(folder, records)
    fit = fit_law(read_table(folder), "chinchilla", cluster="trunk_id", starts=2)
    write_json(folder / "fit.json", {**fit.to_json(), "rivals": []})
    log = Metrics(folder / "runs" / records[0].trunk_id / "metrics.jsonl")
    for step in range(1, 13):
        log.append({"step": step, "num_tokens": 512 * step, "segment": "trunk", "loss": 5 - draw.random()})
    run = log.path.parent
    write_json(folder / "allowed.json", {"fields": ["data", "laws"]})
    write_json(folder / "made_with.json", {"data": {"mine as bytes": "file/bytes/0123"}, "versions": {"jax": "0.7.2"}})
    write_json(folder / "launch.json", {"id": "0f3a", "exit_code": 75})
    with DirectoryLock(folder):
        pass
    write_json(run / "begun.json", {"at": "2026-11-26T11:16:01+00:00", "ledger_head": 16 * "d97d"})
    write_json(run / "progress.json", {"trained_tokens": 512, "tokens_per_second": 8.5, "loss": 4.25})
    clock = Goodput(run / "goodput.jsonl")
    for _ in range(12):
        clock.write()
    return folder


def values_of(table) -> dict[str, list]:
    return {name: array.tolist() for name, array in sorted({**table.columns, **table.labels}.items())}


READERS = {
    "runs/*-D20000/record.json": read_record,
    "fit.json": lambda path: [fit.to_json() for fit in read_fits(path.parent)[0]],
    "result.json": lambda path: read_json(path, "exit_code"),
    "plan.json": read_json,
    "experiment.json": lambda path: from_data(Experiment, read_json(path)),
    "table.parquet": lambda path: json.dumps(values_of(read_table(path.parent))),  # where NaN equals NaN
    "allowed.json": lambda path: allowed_fields(path.parent),
    **dict.fromkeys(("made_with.json", "launch.json", "sweep.json"), read_json),
    **dict.fromkeys(("runs/*/begun.json", "runs/*/progress.json"), read_json),
}
"""How sweep, fit, forecast and report read each file."""


def flips(path: Path, seed: int = 0):
    """Flips one bit of a file after another, and yields once for each while it is flipped."""
    whole = path.read_bytes()
    for bit in np.random.default_rng(seed).choice(8 * len(whole), NUM_FLIPS, replace=False).tolist():
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        yield bit
    path.write_bytes(whole)


def damaged(directory: Path) -> set[str]:
    return {finding.path for finding in diagnose(directory).findings if finding.kind == "damaged"}


@pytest.mark.parametrize("pattern", READERS)
def test_a_flipped_bit_is_an_error_with_the_file_or_changes_nothing_and_the_doctor_names_that_file(directory, pattern):
    path, read = sorted(directory.glob(pattern))[0], READERS[pattern]
    expected, own = read(path), path.relative_to(directory).as_posix()
    assert damaged(directory) == set()
    num_harmful = 0
    for bit in flips(path):
        try:
            assert read(path) == expected, f"bit {bit} is believed"
        except ValueError as problem:
            assert path.name in str(problem), f"bit {bit}: {problem}"
            num_harmful += 1
            if num_harmful % LOOKED_AT == 0:
                assert damaged(directory) == {own}, f"bit {bit}"
    assert num_harmful > NUM_FLIPS / 4


def test_a_flipped_bit_of_the_seconds_costs_its_line_and_no_second_is_another(directory):
    (path,) = directory.glob("runs/*/goodput.jsonl")
    expected = read_events(path)
    assert len(expected) == 12
    for bit in flips(path):
        rows = read_events(path)
        values = [{name: row.get(name) for name in expected[0]} for row in rows]
        assert all(value in expected for value in values), f"bit {bit} is believed"
        if len(rows) < 12 and (LOOKED_AT == 1 or bit % 8 == 0):
            told = [finding for finding in diagnose(directory).findings if finding.path.endswith("goodput.jsonl")]
            assert told, f"bit {bit}"


def test_a_flipped_bit_of_a_step_log_costs_its_line_and_no_loss_is_another(directory):
    (path,) = directory.glob("runs/*/metrics.jsonl")
    expected = whole_rows(path)
    assert len(expected) == 12
    for bit in flips(path):
        rows = whole_rows(path)
        values = [{name: row.get(name) for name in expected[0]} for row in rows]
        assert all(value in expected for value in values), f"bit {bit} is believed"
        if len(rows) < 12 and (LOOKED_AT == 1 or bit % 8 == 0):
            told = [finding for finding in diagnose(directory).findings if finding.path.endswith("metrics.jsonl")]
            assert told, f"bit {bit}"


def write_tokens(folder: Path) -> Path:
    """Writes the tokens of a text of nine bytes, and returns where they are."""
    home = tokens_folder(folder, "bytes")
    home.mkdir(parents=True)
    arrays = {"tokens": np.arange(9, dtype=np.uint8), "offsets": np.array([0, 9]), "groups": np.zeros(1, np.int32)}
    for name, array in arrays.items():
        np.save(home / f"validation.{name}.npy", array)
    digests = {f"validation.{name}.npy": file_digest(home / f"validation.{name}.npy") for name in arrays}
    split = {"num_tokens": 9, "num_documents": 1, "num_text_bytes": 9, "blake3": digests}
    described = {"format": 1, "tokenizer": "bytes", "vocab_size": 256, "fingerprint": "file/bytes/0123456789abcdef"}
    write_json(home / "tokens.json", {**described, "splits": {"validation": split}})
    return home


def test_a_flipped_bit_of_the_description_of_tokens_is_named_or_harmless(tmp_path):
    home = write_tokens(tmp_path)

    def facts() -> tuple:
        file = open_token_file(tmp_path, "bytes", "validation")
        return file.tokenizer, file.vocab_size, file.num_text_bytes, file.fingerprint, file.tokens.tolist()

    expected = facts()
    for bit in flips(home / "tokens.json"):
        try:
            assert facts() == expected, f"bit {bit} is believed"
        except ValueError as problem:
            assert "tokens.json" in str(problem), f"bit {bit}: {problem}"


def test_the_doctor_names_the_file_of_a_prepared_text_that_is_damaged_in_the_cache_a_sweep_uses(tmp_path, monkeypatch):
    monkeypatch.setenv("KLEIBER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.txt").write_text("any text")
    corpus = find_corpus(str(tmp_path / "mine.txt"))
    folder = tmp_path / "cache" / "corpora" / corpus.slug / corpus.version
    home = write_tokens(folder)
    write_json(folder / "manifest.json", {"format": 1, "corpus": "file:mine.txt", "splits": {"validation": {}}})
    data, directory = DataConfig(str(tmp_path / "mine.txt")), tmp_path / "out"
    trunks = tuple(replace(trunk, data=data) for trunk in TRUNKS)
    write_json(directory / "experiment.json", to_data(replace(EXPERIMENT, trunks=trunks)))
    assert damaged(directory) == set()
    for path in (home / "tokens.json", folder / "manifest.json", home / "validation.tokens.npy"):
        whole, num_harmful = read_json(path) if path.suffix == ".json" else None, 0
        for bit in flips(path):
            try:
                harmless = whole is not None and read_json(path) == whole
            except ValueError:
                harmless = False
            num_harmful += not harmless
            if LOOKED_AT == 1 or bit % 8 == 0:
                assert damaged(directory) == (set() if harmless else {str(path)}), f"bit {bit} of {path.name}"
        assert num_harmful > NUM_FLIPS / 4
    description = json.loads((home / "tokens.json").read_text())
    (home / "tokens.json").write_text(json.dumps({k: v for k, v in description.items() if "seal" not in k}))
    with pytest.raises(ValueError, match=r"tokens\.json is damaged .*no seal"):
        open_token_file(folder, "bytes", "validation")


@pytest.mark.parametrize("lost", ["sealed", "seal"])
def test_a_file_that_lost_one_of_its_two_marks_is_not_taken_for_an_old_one(tmp_path, lost):
    path = tmp_path / "record.json"
    path.write_text(sealed_text({"loss": 2.5}).replace(f'"{lost}":', f'"{lost[:-1]}m":'))
    with pytest.raises(ValueError, match="differs from its seal"):
        read_json(path)


def test_a_file_of_before_there_were_seals_is_read_as_it_stands(tmp_path):
    (tmp_path / "old.json").write_text('{"loss": 2.5, "format": 1}')
    assert read_json(tmp_path / "old.json") == {"loss": 2.5, "format": 1}


@pytest.mark.parametrize("content", ["[]", "3", "{}", "[" * 100_000, '{"exit_code": ' + "9" * 5000 + "}", "\xff", ""])
def test_json_of_another_shape_is_a_sentence_with_the_file(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"result\.json is not whole JSON .*remove it"):
        read_json(path, "exit_code")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_told_at_once(directory, tmp_path, make):
    make(tmp_path / "record.json")
    with pytest.raises(ValueError, match=r"record\.json is no file but a (folder|pipe or device)"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
@pytest.mark.parametrize("name", ["table.parquet", "fit.json", "ledger.jsonl", "runs/record.json", "experiment.json"])
def test_the_doctor_never_waits_for_a_pipe_or_device(tmp_path, make, name):
    write_json(tmp_path / "experiment.json", to_data(EXPERIMENT))
    (tmp_path / "runs").mkdir()
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    assert name in damaged(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_params_total": 7}, "num_params_total is '7', its config says"),
        ({"num_tokens": 7}, "num_tokens is '7'"),
        ({"split": "target"}, "split is 'target', its config says 'fit'"),
        ({"learning_rate": 0.02}, "learning_rate is '0.02', its config says 0.01"),
        ({"factors": (("bits", 4),)}, "bits is '4', its config says 8"),
        ({"status": "pending"}, "its status is 'pending'"),
        ({"loss": 1.0, "experiment": "renamed", "exchanged_bytes": None, "factors": (("bits", 8), ("old", 1))}, ""),
    ],
)
def test_a_record_that_says_other_than_its_config_is_not_that_of_its_cell(changes, said):
    planned = planned_records("sealed", "fit", replace(TRUNKS[0], factors=(("bits", 8),)))[20_000]
    found = cell_problem(replace(planned, **{"status": "done", "loss": 2.5, **changes}), planned)
    assert said in found and bool(said) == bool(found)


def test_the_fit_that_is_printed_is_sealed_and_forecast_refuses_another_number_in_it(directory, tmp_path, capsys):
    assert main(["fit", str(directory), "--starts", "2", "--no-in-depth", "--json"]) == 0
    path, line = tmp_path / "fit.json", ["--num-params", "1e5", "--num-tokens", "1e6"]
    path.write_text(printed := capsys.readouterr().out)
    assert main(["forecast", str(path), *line]) == 0
    rms = f'"residual_rms": {json.loads(printed)["residual_rms"]}'
    path.write_text(printed.replace(rms, '"residual_rms": 0.5'))
    assert main(["forecast", str(path), *line]) == 2
    assert "differs from its seal" in capsys.readouterr().err


def test_a_fit_without_a_finite_working_point_is_refused(directory, tmp_path):
    data = read_json(directory / "fit.json")
    data["state"]["z"][0] = float("nan")
    write_json(tmp_path / "fit.json", data)
    with pytest.raises(ValueError, match=r"fit\.json: .*finite working point"):
        read_fits(tmp_path)


def test_a_table_of_somebody_else_needs_no_seal_and_one_of_ours_that_was_changed_is_told(directory, tmp_path):
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "table.parquet")
    column = table.column_names.index("loss")
    changed = table.set_column(column, "loss", pc.add(table["loss"], 0.3))
    pq.write_table(changed, tmp_path / "ours.parquet")
    with pytest.raises(ValueError, match=r"ours\.parquet .* differs from its seal"):
        read_table(tmp_path / "ours.parquet")
    pq.write_table(changed.replace_schema_metadata(None), tmp_path / "theirs.parquet")
    assert len(read_table(tmp_path / "theirs.parquet")) == 9


def test_the_line_that_the_doctor_says_for_a_damaged_step_log_ends_in_health(directory):
    (path,) = directory.glob("runs/*/metrics.jsonl")
    whole = path.read_text()
    lines = whole.splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace("segment", "segmejt"), *lines[2:6], *lines[3:]]) + "\n")
    (finding,) = diagnose(directory).findings
    assert finding.kind == "damaged" and "line 2 " in finding.what
    subprocess.run(finding.remedy.removeprefix("take it out: "), shell=True, check=True)
    assert damaged(directory) == set() and path.read_text() == whole.replace(lines[1] + "\n", "")
    path.write_text(whole)


def test_files_whose_kind_was_sealed_later_are_read_plain_beside_sealed_ones_and_a_record_is_not(tmp_path):
    write_json(tmp_path / "made_with.json", {"versions": {}})
    folder = tmp_path / "runs" / "d8-L1-s0"
    folder.mkdir(parents=True)
    for path in (folder / "progress.json", tmp_path / "ledger.jsonl.head", folder / "record.json"):
        path.write_text('{"loss": 2.5}')
    assert read_json(folder / "progress.json") == read_json(tmp_path / "ledger.jsonl.head") == {"loss": 2.5}
    with pytest.raises(ValueError, match="it has no seal"):
        read_json(folder / "record.json")
