"""Tables: what is wrong with one is a named error or a typed warning that says what to do."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kleiber.scaling.expression import ExpressionError, select_rows
from kleiber.scaling.fit import fit_law
from kleiber.scaling.table import (
    ConstantRatioWarning,
    DuplicateRowsWarning,
    MissingColumnError,
    MixedTokenizersError,
    NotANumberError,
    NotPositiveError,
    OneSizeError,
    TableError,
    TooFewPointsError,
    from_columns,
    read_table,
)
from kleiber.scaling.truth.designs import REFERENCE, grid, surface

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


def test_mixed_tokenizers_are_an_error():
    with pytest.raises(MixedTokenizersError, match="256, 4096"):
        fit_law(from_columns({**sound(), "vocab_size": [256, 4096] * 20}), "chinchilla")


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
    ],
)
def test_expressions_choose_rows(expression, wanted):
    table = from_columns(ROWS)
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
    ],
)
def test_expressions_outside_the_grammar_are_errors(expression):
    table = from_columns(ROWS)
    with pytest.raises(ExpressionError):
        select_rows(expression, {**table.columns, **table.labels})


def test_a_misspelt_name_in_an_expression_names_the_nearest():
    with pytest.raises(ExpressionError, match="Did you mean 'params'"):
        select_rows("parms > 1", from_columns(ROWS).columns)
