"""Published tables: read under our names, refused when unknown, fetched only with a digest that agrees."""

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path

import pytest

from kleiber.scaling.public_sets import TABLES, get_public_table
from kleiber.scaling.public_tables import fetch, load_public, main, to_csv
from kleiber.scaling.table import read_table


def write(path: Path, rows: list[dict]) -> Path:
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_set_says_its_licence_and_convention() -> None:
    assert len({table.id for table in TABLES}) == len(TABLES)
    for table in TABLES:
        assert table.licence and table.counting and table.citation and table.url.startswith(("https://", ""))


def test_tokens_of_the_extracted_chinchilla_runs_come_from_compute(tmp_path: Path) -> None:
    rows = [{"Model Size": n, "Training FLOP": c, "loss": 3.0} for n, c in ((1e8, 6e18), (1e10, 6e19))]
    table = load_public("chinchilla", write(tmp_path / "a.csv", rows))
    assert table["num_tokens"].tolist() == [1e10]  # the second has 0.1 tokens per parameter and is left out
    assert table["num_params_total"].tolist() == [1e8] and any("licence" in note for note in table.notes)


def test_the_last_evaluation_of_each_routed_model_is_kept(tmp_path: Path) -> None:
    rows = [
        {"hyper_id": 1, "step": step, "router_type": "Dense", "loss_validation": loss, "total_parameter_count": 2e7}
        | {"dense_parameter_count": 1e7}
        for step, loss in ((10_000, 4.0), (30_000, 3.0), (20_000, 3.5))
    ]
    table = load_public("routed", write(tmp_path / "curves.csv.gz", rows))
    assert table["loss"].tolist() == [3.0] and table["num_params_active"].tolist() == [1e7]


def test_records_of_overtrained_models_become_rows(tmp_path: Path) -> None:
    result = {"loss": 3.5, "loss_tokens_lower_95": 3.49, "loss_tokens_upper_95": 3.51}
    other = {**result, "loss": 9.0, "val_data": ["x/paloma_c4_en/1.tar"]}
    record = {
        "name": "m",
        "dataset_name": "c4_original",
        "hyperparameters": {"params": 10, "params_no_embed": 6, "tokens": 200},
        "results": [other, {**result, "val_data": ["training/eval_data/c4_val/shard-0.tar"]}],
    }
    (tmp_path / "m.json").write_text(json.dumps(record))
    table = load_public("gadre", tmp_path)
    assert table["loss"].tolist() == [3.5] and table["num_params_total"].tolist() == [10.0]
    assert table["loss_standard_error"][0] == pytest.approx(0.02 / 3.92)


def test_nothing_is_fetched_without_the_right_digest(tmp_path: Path) -> None:
    entry, data = get_public_table("chinchilla"), b"Model Size,Training FLOP,loss\n1e8,6e18,3\n"
    path = tmp_path / "new.csv"
    with pytest.raises(ValueError, match="which version you trust"):
        fetch(entry, path)
    with pytest.raises(ValueError, match="nothing was written"):
        fetch(entry, path, "0" * 64, lambda url: io.BytesIO(data))
    assert not path.exists()
    fetch(entry, path, hashlib.sha256(data).hexdigest(), lambda url: io.BytesIO(data))
    assert path.read_bytes() == data
    with pytest.raises(ValueError, match="exists already"):
        fetch(entry, path, hashlib.sha256(data).hexdigest(), lambda url: io.BytesIO(data))


def test_a_table_survives_its_csv(tmp_path: Path) -> None:
    rows = [{"params": 1e8, "tokens": 2e9, "unique_tokens": 1e9, "val_loss": 3.25, "run": "a"}]
    source = write(tmp_path / "runs.csv", rows)
    assert main(["datablations", str(source), "--out", str(tmp_path / "out.csv")]) == 0
    again = read_table(tmp_path / "out.csv")
    assert again["num_unique_tokens"].tolist() == [1e9] and again["loss"].tolist() == [3.25]
    assert to_csv(again).splitlines()[0].split(",")[0] == "run"


def test_pickles_and_unknown_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="sandbox"):
        load_public("porian", tmp_path / "experiment_results.pickle.xz")
    assert main(["gadree", "x"]) == 2 and "Did you mean 'gadre'" in capsys.readouterr().err
    assert main([]) == 0 and "licence" in capsys.readouterr().out
