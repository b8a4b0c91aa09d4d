"""Tables of runs from what others logged: every kind gives back what was put in, and damage is told."""

import csv
import importlib
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from kleiber.experiments.cli import main
from kleiber.experiments.importing.logged import ImportProblem, table_of
from kleiber.experiments.importing.sources import read_runs
from kleiber.experiments.importing.wandb_log import BLOCK, HEADER
from kleiber.experiments.importing.wire import crc32c
from kleiber.scaling.table.table import read_table

RUNS = {
    "width-0": (1000, [(6666, 4.25), (13333, 3.75), (20000, 3.25)]),
    "width-1": (4000, [(26666, 3.718281828459045), (53333, 3.218281828459045), (80000, 2.718281828459045)]),
}
"""Parameters, and (tokens, loss) at steps 0, 1, 2: what every kind is made from; the logs in data/wandb by W&B 0.31."""


def tensorboard(folder):
    for name, (num_params, rows) in RUNS.items():
        with SummaryWriter(str(folder / name), write_to_disk=True) as writer:
            for each in hparams({"n_params": num_params}, {"val/loss": 0.0}):
                writer.file_writer.add_summary(each)
            for step, (tokens, loss) in enumerate(rows):
                writer.add_scalar("tokens", tokens, step)
                writer.add_scalar("val/loss", loss, step)


def wandb(folder):
    for index, path in enumerate(sorted((Path(__file__).parent / "data" / "wandb").glob("*.wandb"))):
        home = folder / f"offline-run-20260101_00000{index}-aaaa{index}"
        home.mkdir(parents=True)
        shutil.copy(path, home)


def wandb_files(folder):
    for name, (num_params, rows) in RUNS.items():
        home = folder / f"run-20260101_000000-{name.replace('-', '')}" / "files"
        home.mkdir(parents=True)
        wrapped = f"model:\n    desc: null\n    value: {{n_params: {num_params}}}\n"
        (home / "config.yaml").write_text(f"_wandb:\n    value: {{cli_version: 0.15}}\n{wrapped}")
        logged = [{"_step": step, "tokens": n, "val/loss": loss} for step, (n, loss) in enumerate(rows)]
        (home / "wandb-history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
        (home / "wandb-summary.json").write_text(json.dumps({**logged[-1], "_wandb": {"runtime": 3}}))
        (home / "wandb-metadata.json").write_text(json.dumps({"displayName": name}))


def mlflow(folder):
    for name, (num_params, rows) in RUNS.items():
        home = folder / "0" / f"id{num_params}"
        for part, texts in {
            "params": {"n_params": str(num_params)},
            "tags": {"mlflow.runName": name},
            "metrics": {
                "tokens": "".join(f"1700000000 {n} {step}\n" for step, (n, _) in enumerate(rows)),
                "val/loss": "".join(f"1700000000 {loss!r} {step}\n" for step, (_, loss) in enumerate(rows)),
            },
        }.items():
            for key, text in texts.items():
                (home / part / key).parent.mkdir(parents=True, exist_ok=True)
                (home / part / key).write_text(text)
        (home / "meta.yaml").write_text(f"run_id: id{num_params}\nstatus: 3\n")
    (folder / "0" / "meta.yaml").write_text("name: Default\n")


def logs(folder):
    folder.mkdir()
    for name, (num_params, rows) in RUNS.items():
        logged = [{"step": step, "tokens": n, "val/loss": loss} for step, (n, loss) in enumerate(rows)]
        logged.insert(1, {"step": 0.5, "tokens": None, "val/loss": None})
        logged = [{"n_params": num_params, **row} for row in logged]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))


def table(folder):
    folder.mkdir()
    with open(folder / "runs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Name", "State", "n_params", "tokens", "val/loss"])
        writer.writerows([name, "finished", n, *rows[-1]] for name, (n, rows) in RUNS.items())


@pytest.mark.parametrize("make", [tensorboard, wandb, wandb_files, mlflow, logs, table])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_kind_gives_back_the_table_that_was_put_in(make, suffix, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / f"runs.{suffix}"
    make(source)
    source = source / "runs.csv" if make is table else source
    assert main(["import", str(source), "--out", str(out), "--yes"]) == 0
    assert "loss              = val/loss (guessed): 2.71828 to 3.25" in capsys.readouterr().out
    found = read_table(out)
    assert found.labels["run_id"].tolist() == list(RUNS)
    assert found["num_params_total"].tolist() == [1000, 4000] and found["num_tokens"].tolist() == [20000, 80000]
    losses = np.array([rows[-1][1] for _, rows in RUNS.values()])
    single = losses.astype(np.float32) if make is tensorboard else losses  # event files hold single precision
    assert found["loss"].tolist() == single.tolist()


@pytest.mark.parametrize("make", [tensorboard, wandb, wandb_files, mlflow, logs])
def test_every_logged_value_is_a_row_where_that_is_asked_for(make, tmp_path):
    make(tmp_path / "source")
    _, runs = read_runs(tmp_path / "source")
    found = table_of(runs, every="val/loss")
    wanted = [(name, n, loss) for name, (_, rows) in RUNS.items() for n, loss in rows]
    assert list(zip(found["run_id"], found["tokens"], strict=True)) == [(name, n) for name, n, _ in wanted]
    np.testing.assert_allclose(found["val/loss"], [loss for _, _, loss in wanted], rtol=1e-7)


def test_a_chart_that_was_exported_is_a_log_of_each_run(tmp_path):
    path = tmp_path / "chart.csv"
    path.write_text(
        "Step,a - b - loss,a - b - loss__MIN,a - b - loss__MAX,c - loss,c - loss__MIN,c - loss__MAX\n"
        "1,3.5,3.5,3.5,,,\n2,3.25,3.25,3.25,4.5,4.5,4.5\n"
    )
    kind, runs = read_runs(path)
    assert kind == "logs" and [(run.name, len(run.rows), run.last()["loss"]) for run in runs] == [
        ("a - b", 2, "3.25"),
        ("c", 1, "4.5"),
    ]


@pytest.mark.parametrize("make", [tensorboard, wandb])
def test_a_log_that_is_cut_or_damaged_is_told_and_what_is_whole_is_taken_where_asked_for(make, tmp_path):
    make(tmp_path)
    path = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.stat().st_size > 400)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) * 3 // 4], whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:]):
        path.write_bytes(broken)
        with pytest.raises(ImportProblem, match=r"is cut or damaged after \d+ whole records .*--takes-cut"):
            read_runs(tmp_path)
        _, runs = read_runs(tmp_path, takes_cut=True)
        assert len(runs) == 2


def test_two_runs_of_one_name_are_refused_or_called_after_their_folders(tmp_path, capsys):
    mlflow(tmp_path / "ml")
    (tmp_path / "ml" / "0" / "id4000" / "tags" / "mlflow.runName").write_text("width-0")
    words = ["import", str(tmp_path / "ml"), "--out", str(tmp_path / "runs.csv"), "--yes"]
    assert main(words) == 2
    assert "two runs are called 'width-0': " in (told := capsys.readouterr().err) and "id4000" in told
    assert main([*words, "--by-folder"]) == 0


def test_nothing_guessed_is_used_without_a_word(tmp_path, capsys):
    logs(tmp_path / "logs")
    out = tmp_path / "runs.csv"
    words = ["import", str(tmp_path / "logs"), "--out", str(out)]
    assert main(words) == 2 and not out.exists()
    assert "--map 'loss=val/loss,num_params_total=n_params,num_tokens=tokens'" in capsys.readouterr().err
    assert main([*words, "--dry-run"]) == 0 and not out.exists()
    assert main([*words, "--map", "loss=val/loss,num_params_total=n_params,num_tokens=step*1000"]) == 0
    assert read_table(out)["num_tokens"].tolist() == [2000, 2000]


def test_a_start_that_went_on_from_a_checkpoint_replaces_the_steps_after_it(tmp_path):
    for suffix, steps in ((".1", range(5)), (".2", range(3, 6))):
        with SummaryWriter(str(tmp_path / "one"), filename_suffix=suffix) as writer:
            for step in steps:
                writer.add_scalar("loss", 10.0 * (suffix == ".2") + step, step)
    _, (run,) = read_runs(tmp_path)
    assert [(row["step"], row["loss"]) for row in run.rows] == [(0, 0), (1, 1), (2, 2), (3, 13), (4, 14), (5, 15)]


def test_records_that_cross_the_blocks_of_a_log_are_whole(tmp_path):
    def varint(number):
        return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)

    def sized(number, data):
        return varint(number << 3 | 2) + varint(len(data)) + data

    def item(key, value):
        return sized(1, sized(1, key.encode()) + sized(16, json.dumps(value).encode()))

    log = HEADER
    for record in (sized(2, item("pad", "x" * 70_000) + item("loss", 1.5)), sized(2, item("loss", 1.25))):
        is_first = True
        while record or is_first:
            room = BLOCK - len(log) % BLOCK - 7
            part, record = record[:room], record[room:]
            kind = (1 if is_first else 4) if not record else (2 if is_first else 3)
            log += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            is_first = False
    (tmp_path / "run-x.wandb").write_bytes(log)
    _, (run,) = read_runs(tmp_path / "run-x.wandb")
    assert [row["loss"] for row in run.rows] == [1.5, 1.25] and len(run.rows[0]["pad"]) == 70_000


def test_what_is_no_log_is_told(tmp_path):
    (tmp_path / "run-x.wandb").write_bytes(b"something else")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ImportProblem, match="no log of W&B that is known here"):
        read_runs(tmp_path)
    with pytest.raises(ImportProblem, match="holds no mlflow: expected event files"):
        read_runs(tmp_path, "mlflow")
    with pytest.raises(FileNotFoundError):
        read_runs(tmp_path / "nowhere")
    tensorboard(tmp_path)
    with pytest.raises(ImportProblem, match="runs of tensorboard and wandb; say which to read: --kind tensorboard"):
        read_runs(tmp_path)


def test_the_checksum_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720
    assert importlib.import_module("kleiber.experiments.commands.import").NEEDED[0] == "loss"


def scalars(folder):
    folder.mkdir()
    for run, (_, rows) in RUNS.items():
        for tag, values in (("val_loss", [loss for _, loss in rows]), ("tokens", [n for n, _ in rows])):
            lines = "".join(f"1700000000.5,{step},{value}\n" for step, value in enumerate(values))
            (folder / f"run-{run}-tag-{tag}.csv").write_text(f"Wall time,Step,Value\n{lines}")


def test_scalars_that_tensorboard_exports_are_runs_and_their_sizes_are_joined_or_one_for_all(tmp_path, capsys):
    scalars(tmp_path / "logs")
    out, sizes = tmp_path / "runs.csv", tmp_path / "sizes.csv"
    sizes.write_text("run_id,num_params_total\nwidth-1,4000\nwidth-0,1000\n")
    words = ["import", str(tmp_path / "logs"), "--out", str(out), "--yes"]
    assert main([*words, "--join", str(sizes)]) == 0
    found = read_table(out)
    assert found.labels["run_id"].tolist() == list(RUNS) and found["num_params_total"].tolist() == [1000, 4000]
    assert found["loss"].tolist() == [rows[-1][1] for _, rows in RUNS.values()]
    assert found["num_tokens"].tolist() == [20000, 80000]
    assert main([*words, "--map", "num_params_total=11424"]) == 0
    assert read_table(out)["num_params_total"].tolist() == [11424, 11424]
    assert capsys.readouterr().out.endswith(f"wrote {out}: kleiber fit {out}\n")


def test_a_renamed_scalar_of_tensorboard_is_a_loss_if_that_is_agreed_to(tmp_path, capsys):
    (tmp_path / "d16.csv").write_text("Wall time,Step,Value\n1.0,0,5.5\n2.0,100,3.25\n")
    assert main(["import", str(tmp_path / "d16.csv"), "--dry-run"]) == 0
    assert "loss              = Value (guessed): 3.25 to 3.25" in capsys.readouterr().out


def test_a_table_that_no_law_can_be_fitted_to_ends_with_3_and_what_is_missing(tmp_path, capsys):
    scalars(tmp_path / "logs")
    out = tmp_path / "runs.csv"
    assert main(["import", str(tmp_path / "logs"), "--out", str(out), "--yes"]) == 3
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"wrote {out}; a fit needs num_params_total too: --map num_params_total=COLUMN, ")
    assert "--join FILE with run_id,num_params_total, a row a run" in said and "kleiber fit" not in said


def test_rows_that_share_runs_are_fitted_with_their_runs_named(tmp_path, capsys):
    logs(tmp_path / "logs")
    out = tmp_path / "runs.csv"
    assert main(["import", str(tmp_path / "logs"), "--out", str(out), "--yes", "--every", "val/loss"]) == 0
    assert capsys.readouterr().out.endswith(f"kleiber fit {out} --cluster run_id\n")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("run_id,n\nwidth-0,1\nwidth-0,2\n", "the run 'width-0' stands there twice"),
        ("run_id,n\nwidth-9,1\n", "the run 'width-9' was not logged; there are width-0, width-1"),
        ("run_id,tokens\nwidth-0,1\n", "the runs have a column 'tokens' already"),
        ("name,n\nwidth-0,1\n", "expected run_id and what to add"),
    ],
)
def test_a_table_that_does_not_join_is_told(tmp_path, capsys, table, told):
    logs(tmp_path / "logs")
    (tmp_path / "more.csv").write_text(table)
    assert main(["import", str(tmp_path / "logs"), "--join", str(tmp_path / "more.csv"), "--yes"]) == 2
    assert told in capsys.readouterr().err


def test_mistakes_are_told_in_the_words_of_import(tmp_path, capsys):
    logs(tmp_path / "logs")
    words = ["import", str(tmp_path / "logs"), "--yes", "--map"]
    assert main([*words, "loss=val_los"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'logs'} has no column 'val_los' to use as 'loss'. Did you mean 'val/loss'?" in said
    (tmp_path / "logs" / "width-0.jsonl").write_text('{"step": 1, "tokens": 5, "val/loss": "bad", "n_params": 7}\n')
    assert main([*words, "loss=val/loss"]) == 2
    said = capsys.readouterr().err
    assert "Map another column: --map loss=COLUMN" in said and "memory" not in said and "--drop" not in said
