"""Tables as other people write them: separators, ways of writing numbers, names and units, and what is proposed."""

import gzip
import json
import warnings

import numpy as np
import pytest

from kleiber.experiments.arguments import count, pairs
from kleiber.scaling.table.checks import usable_rows, warn_shared
from kleiber.scaling.table.naming import nearest, propose_mapping, unit_of
from kleiber.scaling.table.reading import as_numbers
from kleiber.scaling.table.table import from_columns, read_table
from kleiber.scaling.table.warned import (
    MissingColumnError,
    MixedTokenizersError,
    NotANumberError,
    ReadAsNumberWarning,
    RowsLeftOutWarning,
    SharedTrunkWarning,
    TableError,
    UnitWarning,
)

NEEDED = ("loss", "num_params_total", "num_tokens")


@pytest.mark.parametrize(
    ("texts", "wanted", "how"),
    [
        (["1,300,000", "70,000", "12"], [1.3e6, 7e4, 12.0], "thousands apart"),
        (["12%", "3.5 %"], [0.12, 0.035], "percent"),
        (["7B", "1.3 b", "350M", "20k"], [7e9, 1.3e9, 3.5e8, 2e4], "billion"),
        (["3,25", "2,9", "2,995"], [3.25, 2.9, 2.995], "decimal comma"),
    ],
)
def test_ways_of_writing_numbers_are_read_and_told(texts, wanted, how):
    with pytest.warns(ReadAsNumberWarning, match=how):
        found = as_numbers("x", texts, "t")
    np.testing.assert_allclose(found, wanted)


def test_missing_values_are_no_numbers_and_plain_numbers_need_no_warning(recwarn):
    np.testing.assert_array_equal(as_numbers("x", ["1.5", "NA", "-", "3e8"], "t"), [1.5, np.nan, np.nan, 3e8])
    assert not recwarn.list


@pytest.mark.parametrize("texts", [["1,300", "2,500"], ["12%", "3"], ["7B", "diverged"], ["", "NA"]])
def test_what_could_mean_two_things_or_nothing_is_not_read(texts):
    assert as_numbers("x", texts, "t") is None


def test_a_text_among_numbers_is_named_with_the_expression_that_leaves_it_out():
    table = read_table({"loss": ["3.1", "diverged", "2.9", "OOM"], "n": [1.0, 2.0, 3.0, 4.0]}, drop="n > 3.5")
    with pytest.raises(NotANumberError, match=r"""--drop 'n > 3.5 or loss == "diverged"'"""):
        table["loss"]
    again = read_table({"loss": ["3.1", "diverged", "2.9"]}, drop="loss == 'diverged'")
    assert again["loss"].tolist() == [3.1, 2.9]
    with pytest.raises(NotANumberError, match="thousands or decimals"):
        from_columns({"loss": ["3,251", "2,998"]})["loss"]


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".csv", ";"), (".tsv", "\t"), (".csv", "|")])
def test_separators_are_found(tmp_path, suffix, separator):
    path = tmp_path / f"runs{suffix}"
    rows = [["name", " N ", ""], ["a, b" if separator != "," else "a", "1e6", "x"], ["", "2e6", "y"], ["", "", ""]]
    path.write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8-sig")
    table = read_table(path)
    assert table.names == ["N", "name", "column_3"]
    assert table["N"].tolist() == [1e6, 2e6]


def test_json_lines_are_read(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"N": 1, "loss": 3.5}\n\n{"N": 2, "loss": null, "note": "x"}\n')
    table = read_table(path)
    np.testing.assert_array_equal(table["loss"], [3.5, np.nan])
    assert table.label("note").tolist() == ["", "x"]
    path.write_text("[1, 2]\n")
    with pytest.raises(TableError, match="line 1 is no JSON object"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.csv", "N,loss,loss\n1,2,3\n", "twice in the header"),
        ("a.csv", "N,loss\n1,000,2\n", "must stand in quotes"),
        ("a.csv", "N,loss\n", "holds no rows"),
        ("a.xlsx", "PK", "expected a .csv"),
        ("a.parquet", "PAR1 cut short", "not whole Parquet .* remove it and type the sweep's line"),
    ],
)
def test_files_that_are_no_tables_say_why(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=match):
        read_table(tmp_path / name)


def test_a_file_in_another_encoding_says_so(tmp_path):
    (tmp_path / "a.csv").write_bytes("Größe,loss\n1,2\n".encode("latin-1"))
    with pytest.raises(TableError, match="not UTF-8"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("ours", "names", "wanted"),
    [
        ("loss", ["train_loss", "final_val_loss", "val_loss_std"], "final_val_loss"),
        ("loss", ["loss_upper_95", "test nll"], "test nll"),
        ("num_params_total", ["params_no_embed", "nParams"], "nParams"),
        ("num_params_total", ["d", "Model Size"], "Model Size"),
        ("num_tokens", ["tokens_per_second", "train_tokens_B"], "train_tokens_B"),
        ("num_tokens", ["N", "D"], "D"),
        ("loss", ["a", "b"], None),
    ],
)
def test_the_nearest_name_is_the_one_a_person_would_pick(ours, names, wanted):
    assert nearest(ours, names) == wanted


def test_units_are_taken_from_the_name_only_where_the_values_agree():
    assert unit_of("params_b", np.array([0.07, 13.0])) == 1e9
    assert unit_of("tokensMillions", np.array([20.0])) == 1e6
    assert unit_of("params_b", np.array([7e7, 1.3e10])) == 1.0
    assert unit_of("b", np.array([0.07])) == 1.0


def test_a_whole_mapping_is_proposed_with_units_and_tokens_from_compute():
    sizes = np.array([0.1, 1.0])
    columns = {"params_b": sizes, "tokens (B)": 20 * sizes, "final_val_loss": 3 + sizes, "lr": sizes, "who": None}
    wanted = "--columns 'loss=final_val_loss,num_params_total=params_b*1e9,num_tokens=tokens_B*1e9'"
    assert propose_mapping(NEEDED, columns, {}) == wanted
    assert propose_mapping(NEEDED, columns, {"loss": "lr"}) == wanted.replace("final_val_loss", "lr")
    extracted = {"Model Size": 1e8 * sizes, "Training FLOP": 1e18 * sizes, "loss": sizes}
    assert "num_tokens=Training_FLOP/6/Model_Size" in propose_mapping(NEEDED, extracted, {})
    assert propose_mapping(NEEDED, {"a": sizes, "b": sizes}, {}) == ""


@pytest.mark.parametrize("name", ["perplexity", "val_ppl", "Test Perplexity"])
def test_the_logarithm_of_a_perplexity_is_proposed_as_the_loss(name):
    columns = {name: np.array([20.0, 9.0]), "N": np.array([1e8, 1e9]), "D": np.array([1e10, 1e11])}
    read = read_table(columns, dict(each.split("=") for each in _proposed(columns).strip("'").split(",")))
    np.testing.assert_allclose(read["loss"], np.log([20.0, 9.0]))


def _proposed(columns):
    return propose_mapping(("loss", "num_params_total", "num_tokens"), columns, {}).removeprefix("--columns ")


def test_a_table_with_one_count_is_shown_the_law_of_one_variable():
    for name in ("params", "tokens", "flops"):
        with pytest.raises(MissingColumnError, match=f"--law power_law --columns num_params_total={name}$"):
            from_columns({name: [1e8, 2e8], "loss": [3.0, 2.9]}).need(("loss", "num_params_total", "num_tokens"))


def test_every_missing_column_is_named_at_once_with_a_line_to_paste():
    table = read_table({"params_b": [0.1, 1.0], "tokens": [1e9, 1e10], "eval loss": [3.0, 2.5]})
    with pytest.raises(MissingColumnError) as caught:
        table.need(NEEDED)
    option = str(caught.value).partition("--columns '")[2].rstrip("'")
    mapping = dict(part.split("=") for part in option.split(","))
    again = read_table({"params_b": [0.1, 1.0], "tokens": [1e9, 1e10], "eval loss": [3.0, 2.5]}, mapping).need(NEEDED)
    assert again["num_params_total"].tolist() == [1e8, 1e9] and again["loss"].tolist() == [3.0, 2.5]


def test_a_misspelt_name_of_ours_is_recognised():
    table = read_table({"size": [1.0, 2.0]}, {"num_params_totl": "size"})
    with pytest.raises(MissingColumnError, match="did you mean num_params_total=size"):
        table.need(("num_params_total",))
    with pytest.raises(MissingColumnError, match="cannot use 'sizes\\*2' as 'num_tokens'.*Did you mean 'size'"):
        read_table({"size": [1.0, 2.0]}, {"num_tokens": "sizes*2"})


def test_a_column_of_texts_can_be_counted_with(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"size": each}) for each in ("7B", "350M")))
    with pytest.warns(ReadAsNumberWarning):
        table = read_table(tmp_path / "a.jsonl", {"num_tokens": "size*20"})
    assert table["num_tokens"].tolist() == [1.4e11, 7e9]


def runs(more: dict[str, list]) -> dict[str, list]:
    """Returns columns of 20 sound runs and 3 that stopped early, under any names."""
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 2e9, 5), np.geomspace(2e9, 4e10, 4)))
    loss = 1.8 + 40 / params**0.33 + 110 / tokens**0.3
    columns = {"num_params_total": [*params, *params[:3]], "num_tokens": [*tokens, *tokens[:3] * 0.1]}
    return {**columns, "loss": [*loss, *loss[:3] * 1.08], **more}


@pytest.mark.parametrize("name", ["status", "Status", "State", "run_state", "Run State"])
def test_runs_that_did_not_finish_are_left_out_however_their_column_is_spelt(name):
    words = ["finished", "Done", "completed ", "success"] * 5 + ["crashed", "failed", "killed"]
    table = usable_rows(from_columns(runs({name: words})), ("num_params_total", "num_tokens"))
    assert len(table) == 20 and any("3 rows without" in note for note in table.notes)


@pytest.mark.parametrize("name", ["Vocab_Size", "Vocab Size", "Tokenizer", "tokenizer-name"])
def test_two_tokenisers_are_refused_however_their_column_is_spelt(name):
    table = from_columns(runs({name: ["a", "b"] * 11 + ["a"]}))
    with pytest.raises(MixedTokenizersError, match="cannot be compared"):
        usable_rows(table, ("num_params_total", "num_tokens"))


@pytest.mark.parametrize("name", ["run_id", "Name", "run", "id", "Trunk_ID", "Run Name"])
def test_rows_of_one_run_warn_under_any_name_of_the_column(name):
    columns = runs({name: [f"run {index // 4}" for index in range(23)]})
    with pytest.warns(SharedTrunkWarning, match=f"6 runs .column {name}. .*--cluster '{name}'"):
        warn_shared(from_columns(columns), ("num_params_total", "num_tokens"))
    columns[name] = [f"run {index}" for index in range(23)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_shared(from_columns(columns), ("num_params_total", "num_tokens"))


TEXT = "N,loss\n1e8,3.5\n2e8,3.25\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("UP.CSV", TEXT.encode()),
        ("a.csv.gz", gzip.compress(TEXT.encode(), mtime=0)),
        ("bom.csv", TEXT.encode("utf-8-sig")),
        ("wide.csv", TEXT.encode("utf-16")),
        ("sep.csv", ("sep=;\n" + TEXT.replace(",", ";")).encode()),
        ("bom.jsonl", '{"N": 1e8, "loss": 3.5}\n{"N": 2e8, "loss": 3.25}\n'.encode("utf-8-sig")),
        ("lines.json", b'{"N": 1e8, "loss": 3.5}\n{"N": 2e8, "loss": 3.25}\n'),
        ("list.JSON", b'[{"N": 1e8, "loss": 3.5}, {"N": 2e8, "loss": 3.25}]'),
        ("u2028.jsonl", '{"N": 1e8, "loss": 3.5, "t": "a\u2028b"}\n{"N": 2e8, "loss": 3.25}'.encode()),
        (
            "vt.csv",
            TEXT.replace("1e8,3.5", "1e8,3.5,a\vb").replace("loss", "loss,t").replace("3.25", "3.25,c").encode(),
        ),
    ],
)
def test_tables_are_read_as_other_tools_write_them(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    table = read_table(tmp_path / name)
    assert table["N"].tolist() == [1e8, 2e8] and table["loss"].tolist() == [3.5, 3.25]


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["2.100.000", "900.000", "1.250.000"], [2.1e6, 9e5, 1.25e6]),
        (["2\u2009100", "12\u2009900"], [2100, 12900]),
        (["7K", "12k"], [7e3, 12e3]),
    ],
)
def test_thousands_are_read_with_dots_thin_spaces_and_k(texts, wanted):
    with pytest.warns(ReadAsNumberWarning):
        assert from_columns({"N": texts})["N"].tolist() == wanted


def test_what_dots_and_commas_could_mean_is_said():
    with pytest.raises(NotANumberError, match="thousands or decimals"):
        from_columns({"loss": ["6,683", "5,125", "5"]})["loss"]
    columns = {"num_params_total": [24.064, 131.072, 1.5], "loss": [3.0, 2.5, 4.0]}
    with pytest.warns(UnitWarning, match=r"dots stand between thousands.*num_params_total\*1e3"):
        usable_rows(from_columns(columns), ("num_params_total",))


@pytest.mark.parametrize(
    "mapping", ["`Params (B)` * 1e9", "'Params (B)'*1e9", '"Params (B)"*1e9', "Params (B)*1e9", "Params_B*1e9"]
)
def test_names_that_are_no_words_stand_in_formulas(mapping):
    data = {"Params (B)": [1.0, 7.0], "loss (nats, val)": [3.0, 2.5]}
    assert read_table(data, {"num_params_total": mapping})["num_params_total"].tolist() == [1e9, 7e9]
    for each in ("loss (nats, val)", "`loss (nats, val)`", "loss_nats_val"):
        assert read_table(data, pairs(f"loss={each}", "columns"))["loss"].tolist() == [3.0, 2.5]


def test_functions_of_columns_are_the_usual_ones():
    data = {"ppl": [np.e, np.e**2], "x": [4.0, 9.0]}
    for formula, wanted in {
        "log(ppl)": [1, 2],
        "sqrt(x)": [2, 3],
        "power(x, 0.5)*2": [4, 6],
        "exp(log(x))": [4, 9],
    }.items():
        np.testing.assert_allclose(read_table(data, {"loss": formula})["loss"], wanted)
    with pytest.raises(MissingColumnError, match="not allowed"):
        read_table(data, {"loss": "eval(ppl)"})


def test_counts_on_the_command_line_may_have_letters():
    assert [count(text) for text in ("7B", "1.4 T", "350m", "2e9")] == [7e9, 1.4e12, 3.5e8, 2e9]
    assert pairs("a=power(x,2),b=1", "columns") == {"a": "power(x,2)", "b": "1"}


def test_an_archive_of_more_than_is_read_at_once_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("kleiber.scaling.table.reading.MAX_TEXT_BYTES", 1_000)
    path = tmp_path / "runs.csv.gz"
    path.write_bytes(gzip.compress(b"num_params_total,num_tokens,loss\n" + b"1,2,3\n" * 1_000_000))
    with pytest.raises(TableError, match=r"runs.csv.gz holds more than 0 MB of text"):
        read_table(path)


@pytest.mark.parametrize(("name", "is_told"), [("State", True), ("run status", True), ("status", False)])
def test_rows_that_a_column_like_a_state_leaves_out_are_warned_of(name, is_told):
    rows = {"loss": [3.0, 2.9, 2.8], "num_params_total": [1e6, 2e6, 3e6], "num_tokens": [1e8, 1e8, 2e8]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable_rows(from_columns({**rows, name: ["finished", "crashed", "finished"]}), NEEDED[1:])
    told = [str(each.message) for each in caught if each.category is RowsLeftOutWarning]
    assert len(told) == is_told and all("1 rows without" in each for each in told)
