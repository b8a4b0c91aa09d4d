"""Tables: what is wrong with one is a named error or a typed warning that says what to do."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kleiber.experiments.sweeping.law_stage import fit_laws
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.table.expression import ExpressionError, select_rows
from kleiber.scaling.table.table import from_columns, read_table
from kleiber.scaling.table.warned import (
    BelowFloorError,
    BelowFloorWarning,
    ConstantRatioWarning,
    DuplicateRowsWarning,
    MissingColumnError,
    MixedTokenizersError,
    NotANumberError,
    NothingDroppedWarning,
    NothingLeftError,
    NotPositiveError,
    OneSizeError,
    TableError,
    TooFewPointsError,
    UnitWarning,
    UnknownValuesWarning,
)
from truth.designs import REFERENCE, grid, surface

ROWS = {"params": [1e5, 2e5, 4e5], "tokens": [1e6, 1e6, 2e6], "val_loss": [3.0, 2.5, 2.2], "stage": ["a", "b", "a"]}


def sound():
    columns = grid()
    model = surface(columns)
    loss = np.exp(model.log_loss(model.working(REFERENCE)[None])[0] + 0.01 * np.sin(np.arange(40) ** 2))
    return {**{name: list(values) for name, values in columns.items()}, "loss": list(loss)}


def test_csv_and_parquet_read_alike(tmp_path):
    text = "\n".join([",".join(ROWS), *[",".join(map(str, row)) for row in zip(*ROWS.values(), strict=True)]])
    (tmp_path / "runs.csv").write_text(text)
    pyarrow.parquet.write_table(pyarrow.table(ROWS), tmp_path / "runs.parquet")
    tables = [
        read_table(tmp_path / name, {"loss": "val_loss"}, "stage == 'b'") for name in ("runs.csv", "runs.parquet")
    ]
    for table in tables:
        np.testing.assert_array_equal(table["loss"], [3.0, 2.2])
        assert table["params"].dtype == np.float64
        assert table.label("stage").tolist() == ["a", "a"]


def test_columns_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        from_columns(ROWS)["params"][0] = 1.0


def test_a_missing_column_names_the_nearest_and_the_option():
    with pytest.raises(MissingColumnError, match="--columns loss=val_loss"):
        from_columns(ROWS)["loss"]
    with pytest.raises(MissingColumnError, match="Did you mean 'val_loss'"):
        read_table(ROWS, {"loss": "val_los"})


@pytest.mark.parametrize(
    ("column", "value", "error"),
    [
        ("loss", float("nan"), NotANumberError),
        ("loss", "oops", NotANumberError),
        ("num_tokens", 0.0, NotPositiveError),
        ("num_params_total", -1.0, NotPositiveError),
        ("num_tokens", float("inf"), NotANumberError),
    ],
)
def test_unsound_numbers_are_named_errors(column, value, error):
    data = sound()
    data[column][3] = value
    with pytest.raises(error, match=column):
        fit_law(from_columns(data), "chinchilla")


def test_all_unsound_rows_are_left_out_by_the_one_expression_that_the_error_gives():
    data = sound()
    data["loss"][3], data["num_tokens"][5], data["loss"][7], data["num_params_total"][10] = np.nan, 0.0, np.inf, -1.0
    table = read_table(data, drop="num_tokens > 9.9e9")
    with pytest.raises(NotANumberError, match=r"--drop '(.*)'\.") as caught:
        fit_law(table, "chinchilla")
    drop = str(caught.value).partition("--drop '")[2].rpartition("'")[0]
    assert drop.startswith("num_tokens > 9.9e9 or ")
    assert fit_law(read_table(data, drop=drop), "chinchilla").num_points == 40 - 8 - 4


def test_too_few_points_is_an_error():
    with pytest.raises(TooFewPointsError, match="5 usable points for a law with 5 free"):
        fit_law(from_columns({name: values[::8] for name, values in sound().items()}), "chinchilla")


def test_one_size_is_an_error():
    data = sound()
    data["num_params_total"] = [1e6] * 40
    with pytest.raises(OneSizeError, match="num_params_total = 1e\\+06"):
        fit_law(from_columns(data), "chinchilla")


def test_constant_tokens_per_parameter_warns():
    data = sound()
    data["num_params_total"] = [each / 20 for each in data["num_tokens"]]
    data["num_tokens"] = [each * (1 + 0.01 * (i % 3)) for i, each in enumerate(data["num_tokens"])]
    with pytest.warns(ConstantRatioWarning):
        fit_law(from_columns(data), "chinchilla")


def test_duplicate_rows_warn_and_count_once():
    data = sound()
    twice = {name: values + values[:2] for name, values in data.items()}
    with pytest.warns(DuplicateRowsWarning, match="2 rows"):
        fit = fit_law(from_columns(twice), "chinchilla")
    assert fit.num_points == 40


def test_copies_under_another_name_warn_and_rounded_losses_do_not():
    data = sound()
    twice = {name: values + values[:2] for name, values in data.items()}
    with pytest.warns(DuplicateRowsWarning, match="2 rows have the very loss"):
        fit = fit_law(from_columns({**twice, "index": list(range(42))}), "chinchilla")
    assert fit.num_points == 42
    rounded = {**twice, "loss": [round(each, 2) for each in twice["loss"]], "index": list(range(42))}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DuplicateRowsWarning)
        fit_law(from_columns(rounded), "chinchilla")


def test_mixed_tokenizers_are_an_error_unless_losses_are_per_byte():
    data = {**sound(), "vocab_size": [256, 4096] * 20}
    with pytest.raises(MixedTokenizersError, match="256, 4096.*--drop 'vocab_size != 256'"):
        fit_law(from_columns(data), "chinchilla")
    assert fit_law(read_table(data, drop="vocab_size != 256"), "chinchilla").num_points == 20
    with pytest.raises(MixedTokenizersError, match="""--drop 'tokenizer != "bpe"'"""):
        fit_law(from_columns({**sound(), "tokenizer": ["bpe", "bytes"] * 20}), "chinchilla")
    per_byte = {**data, "bits_per_byte": data.pop("loss")}
    assert fit_law(read_table(per_byte, {"loss": "bits_per_byte"}), "chinchilla").num_points == 40


def test_losses_below_a_fixed_floor_are_an_error_and_below_a_fitted_one_a_warning():
    data = sound()
    with pytest.raises(BelowFloorError, match="E is fixed at 1.5"):
        fit_law(from_columns(data), "chinchilla", fixed={"E": 1.5})
    data["loss"][17] *= 0.4  # an outlier that the other runs outvote
    with pytest.warns(BelowFloorWarning, match="1 of the losses below the fitted floor"):
        fit_law(from_columns(data), "chinchilla", objective="huber")


def test_counts_that_seem_to_be_in_billions_warn_and_say_how_to_map_them():
    data = {**sound(), "params (B)": [each / 1e9 for each in sound()["num_params_total"]]}
    with pytest.warns(UnitWarning, match=r"num_params_total=params_B\*1e9"):
        fit_law(read_table(data, {"num_params_total": "params (B)"}), "chinchilla")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_law(read_table(data, {"num_params_total": "params_B*1e9"}), "chinchilla")


def test_a_sweep_has_counted_its_own_runs_and_is_told_of_no_unit_and_no_option_that_it_lacks():
    few = {**sound(), "num_params_total": [each / 1e6 for each in sound()["num_params_total"]]}
    few["trunk_id"] = [f"trunk-{row}" for row in range(len(few["loss"]))]
    with pytest.warns(UnitWarning, match="--columns"):
        fit_law(from_columns(few), "chinchilla", cluster="trunk_id")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnitWarning)
        fit_laws(SimpleNamespace(laws=("chinchilla",)), from_columns(few))


@pytest.mark.parametrize("word", ["finished", "Completed"])
def test_other_words_for_a_finished_run_are_understood(word):
    data = {**sound(), "status": [word] * 38 + ["crashed"] * 2}
    assert fit_law(from_columns(data), "chinchilla").num_points == 38


def test_a_split_that_names_no_fitting_rows_is_ignored_with_a_warning():
    with pytest.warns(UnknownValuesWarning, match="all rows are used"):
        assert fit_law(from_columns({**sound(), "split": ["a", "b"] * 20}), "chinchilla").num_points == 40


def test_only_finished_fitting_runs_are_used():
    data = {**sound(), "status": ["done"] * 38 + ["failed"] * 2, "split": ["fit"] * 36 + ["target"] * 4}
    data["loss"][39] = float("nan")
    assert fit_law(from_columns(data), "chinchilla").num_points == 36
    with pytest.raises(TableError, match="no row has status 'done'"):
        fit_law(from_columns({**sound(), "status": ["failed"] * 40}), "chinchilla")


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("tokens / params < 8", [False, True, True]),
        ("params > 1e5 and val_loss < 2.4", [False, False, True]),
        ("stage == 'b' or val_loss >= 3", [True, True, False]),
        ("not 1e5 < params <= 2e5", [True, False, True]),
        ("params == '200000'", [False, True, False]),
        ("params < '1000000' and seed == 1", [True, False, False]),
        ("missing(seed) or missing(params)", [False, False, True]),
        ("val_loss_nats > 2.4", [True, True, False]),
    ],
)
def test_expressions_choose_rows(expression, wanted):
    table = from_columns({**ROWS, "seed": ["1", "x", "n/a"], "val loss [nats]": ROWS["val_loss"]})
    assert select_rows(expression, {**table.columns, **table.labels}).tolist() == wanted


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "params.real > 1",
        "params",
        "(lambda: 1)() > 0",
        "params[0] > 1",
        "parms > 1",
        "params >",
        "stage * 2 > 1",
        "1 > 2",
        "params == 'a'",
        "missing(1)",
    ],
)
def test_expressions_outside_the_grammar_are_errors(expression):
    table = from_columns(ROWS)
    with pytest.raises(ExpressionError):
        select_rows(expression, {**table.columns, **table.labels})


def test_a_misspelt_name_in_an_expression_names_the_nearest():
    with pytest.raises(ExpressionError, match="Did you mean 'params'"):
        select_rows("parms > 1", from_columns(ROWS).columns)


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("split == target", "write split == 'target'"),
        ("split == fit", "write split == 'fit'"),
        ("split = 'fit'", "equality is =="),
        ("split == “fit”", "quote texts with plain"),
        ("(params > 1) & (params < 2)", "& and"),
        ("val loss > 3", "written val_loss"),
    ],
)
def test_slips_in_an_expression_are_answered_with_what_to_type(expression, hint):
    columns = {"split": np.array(["fit", "target"]), "target": np.array(["", "big"]), "params": np.ones(2)}
    with pytest.raises(ExpressionError, match=re.escape(hint)):
        select_rows(expression, {**columns, "val loss": np.ones(2)})


def test_an_expression_that_leaves_out_nothing_warns_and_one_that_leaves_out_all_is_an_error():
    with pytest.warns(NothingDroppedWarning, match="No row has stage 'B'. It holds 'a', 'b'"):
        read_table(ROWS, drop="stage == 'B'")
    with pytest.warns(NothingDroppedWarning, match="leaves out no row"):
        read_table(ROWS, drop="params > 1e9")
    with pytest.raises(NothingLeftError, match=r"--drop 'not \(params < 1e9\)'"):
        read_table(ROWS, drop="params < 1e9")
