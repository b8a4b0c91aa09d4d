"""Published tables: read under our names, refused when unknown, fetched only with a digest that agrees."""

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path

import pytest

from kleiber.scaling.table.public_sets import TABLES, get_public_table
from kleiber.scaling.table.public_tables import fetch, load_public, main, to_csv
from kleiber.scaling.table.table import read_table
from kleiber.scaling.table.warned import TableError


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
    assert table["num_tokens"].tolist() == [1e10, 1e9]
    assert table["num_params_total"].tolist() == [1e8, 1e10] and any("licence" in note for note in table.notes)


def test_five_chinchilla_runs_of_highest_loss_are_left_out_whatever_their_ratio(tmp_path: Path) -> None:
    rows = [
        {"Model Size": 1e8 * (1 + k), "Training FLOP": 1e19, "loss": 2.0 + (k * 11 % 245) / 100} for k in range(245)
    ]
    table = load_public("chinchilla", write(tmp_path / "a.csv", rows))
    assert len(table) == 240 and table["loss"].max() == pytest.approx(2.0 + 239 / 100)


PUBLISHED = {
    "datablations": "run,params,tokens,unique_tokens,epochs,val_loss,seed,in_published_fit",
    "chinchilla": "Model Size,Training Tokens,Training FLOP,loss",
    "routed": "hyper_id,step,router_type,num_experts,k,routing_frequency,flop_increase,d_model,num_blocks,num_heads,"
    "kqv_size,seed,total_parameter_count,dense_parameter_count,flops_per_step,model_size_label,loss_validation,loss_c4,"
    "loss_curation_corpus,loss_lambada,loss_pile,loss_wikitext103",
    "scalebench_data_constrained": "unique_tokens,params,tokens,loss",
    "scalebench_moe": "num_experts,dense_parameter_count,loss_validation",
    "scalebench_lr_bsz": "lr,bsz,data_size,non_embedding_param_size,lm_loss",
    "scalebench_farseer": "N,D,loss",
    "porian": "params,tokens,loss",
}
"""Headers as published (of porian: as its note asks for); gadre is a folder of records."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_table_in_the_published_layout_gets_our_names(tmp_path: Path, name: str) -> None:
    header = PUBLISHED[name].split(",")
    texts = {"run", "router_type", "model_size_label"}
    rows = [
        {key: f"t{row}" if key in texts else (row + 2) * 10.0 ** (9 + 0.1 * place) for place, key in enumerate(header)}
        for row in range(3)
    ]
    for row in rows:
        row.update({key: 3.0 for key in header if key.endswith("loss") or key == "loss_validation"})
        if name == "chinchilla":
            row["Training FLOP"] = 6 * row["Model Size"] * row["Training Tokens"]
    entry, table = get_public_table(name), load_public(name, write(tmp_path / "runs.csv", rows))
    assert table["loss"].tolist() == [3.0] * 3
    for ours, theirs in entry.columns.items():
        if theirs in header:
            assert table.label(ours).tolist() == table.label(theirs).tolist()
    if name == "chinchilla":
        assert table["num_tokens"] == pytest.approx(table["Training Tokens"])
    assert any(entry.licence in note for note in table.notes)


def test_every_set_has_a_published_layout_under_test() -> None:
    assert {table.id for table in TABLES} == {*PUBLISHED, "gadre"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_another_table_is_refused_with_what_was_expected(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "other.csv", [{"a": 1.0, "b": 2.0}])
    with pytest.raises(TableError, match=f"does not look like the set {name}.*read from the columns.*get it from"):
        load_public(name, path)


def test_a_record_without_its_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"name": "m", "results": [{"loss": 3.0}]}))
    with pytest.raises(TableError, match="no record of the set gadre: 'val_data' is missing; expected name"):
        load_public("gadre", tmp_path)


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
