"""Claims about the run record: its columns, what it leaves out, what it still reads, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kleiber.experiments.directory.record import (
    RunRecord,
    planned_records,
    read_record,
    record_columns,
    record_path,
    versions,
    write_table,
)
from kleiber.files import write_json
from kleiber.model.config import ModelConfig
from kleiber.train.config import OptimizerConfig, TrainConfig

CONFIG = TrainConfig(ModelConfig(8, 1, 1), OptimizerConfig(0.01), (1000,), factors=(("bits", 8), ("data", "clean")))
COLUMNS = (
    "run_id trunk_id experiment split target status reason family d_model num_layers num_params_total "
    "num_params_non_embedding num_params_active num_tokens num_steps batch_size seq_len vocab_size flops flops_6nd "
    "exchanged_bytes tokens_per_parameter seed learning_rate optimizer weight_decay schedule corpus tokenizer "
    "config_hash dtype bits data"
).split()
MEASURED = (
    "code_version python_version jax_version jaxlib_version flax_version optax_version orbax_checkpoint_version "
    "numpy_version device data_fingerprint epochs num_unique_tokens loss loss_standard_error bits_per_byte "
    "wall_seconds tokens_per_second"
).split()
"""As files of release 0.1 have them: read by whoever has a table, so never renamed, never in another order."""


def planned() -> RunRecord:
    return planned_records("trial", "fit", CONFIG)[1000]


def done() -> RunRecord:
    return replace(planned(), status="done", loss=2.5, epochs=0.1, **versions())


def test_columns_are_those_promised_and_factors_come_before_what_is_measured():
    assert list(planned().to_json()) == COLUMNS
    assert list(done().to_json()) == COLUMNS + MEASURED
    assert planned().to_json()["bits"] == 8 and planned().to_json()["data"] == "clean"


def test_a_run_that_failed_before_training_writes_no_measured_column_and_a_diverged_one_a_loss_of_none():
    assert list(replace(planned(), status="failed", reason="no memory").to_json()) == COLUMNS
    diverged = replace(done(), status="diverged", reason="loss is NaN", loss=None)
    assert list(diverged.to_json()) == COLUMNS + MEASURED and diverged.to_json()["loss"] is None


@pytest.mark.parametrize("make", [planned, done])
def test_a_record_comes_back_from_its_file_as_it_was(tmp_path, make):
    record, path = make(), record_path(tmp_path, make().run_id)
    write_json(path, record.to_json())
    assert read_record(path) == record
    assert json.dumps(read_record(path).to_json()) == json.dumps(record.to_json())


def test_a_record_of_before_a_column_stays_as_it_was_and_a_column_since_removed_is_kept():
    row = done().to_json()
    del row["exchanged_bytes"]
    row = {**{name: row[name] for name in row if name not in MEASURED}, "old_column": 3} | {n: row[n] for n in MEASURED}
    read = RunRecord.from_json(row, Path("record.json"))
    assert read.exchanged_bytes is None and ("old_column", 3) in read.factors
    assert list(read.to_json().items()) == list(row.items())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_tokens", "many", "num_tokens is 'many', expected int"),
        ("flops", None, "flops is 'None', expected float or int"),
        ("seed", True, "seed is 'True', expected int"),
        ("device", 3, "device is '3', expected str or null"),
        (
            "status",
            "finished",
            "its status is 'finished', expected one of done, failed, diverged, pruned, continued, pending",
        ),
        ("loss", None, "it is done, and its loss is None"),
        ("loss", float("inf"), "it is done, and its loss is inf"),
        ("bits", [8], "bits is '[8]', expected a number or text"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_what_was_expected(tmp_path, field, value, said):
    path = tmp_path / "record.json"
    write_json(path, {**done().to_json(), field: value})
    with pytest.raises(ValueError) as wrong:
        read_record(path)
    assert str(wrong.value) == f"{path}: {said}; remove the file to have that point measured again."


def test_a_missing_field_and_a_list_are_no_record():
    row = done().to_json()
    del row["seed"]
    for data, said in ((row, "it has no seed"), ([], "it holds list, expected the columns of a run record")):
        with pytest.raises(ValueError, match=said):
            RunRecord.from_json(data, Path("record.json"))


def test_a_table_has_the_union_of_columns_in_order_and_none_where_a_record_has_no_value(tmp_path):
    import pyarrow.parquet as pq

    other = replace(planned(), run_id="other", factors=(("rank", 4),))
    columns = record_columns([done(), other])
    assert list(columns) == [*COLUMNS, *MEASURED, "rank"]
    assert columns["bits"] == [8, None] and columns["rank"] == [None, 4] and columns["loss"] == [2.5, None]
    write_table(tmp_path, [done(), other])
    assert pq.read_table(tmp_path / "table.parquet").to_pydict() == columns
