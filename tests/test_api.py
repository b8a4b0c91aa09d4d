"""The public surface: what `import kleiber as kb` gives is written out here by hand, and docs/python.md is executed."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pytest

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.files import read_json, unsealed

HOUSE = Path(__file__).parent.parent
PAGE = (HOUSE / "docs" / "python.md").read_text(encoding="utf-8")

SIGNATURES = {
    "fit": "data, law=None, *, cluster=None, objective='gaussian', delta=None, drop=None, fix=None, starts=16, "
    "in_depth=False, protect='rolling_origin', residuals='log', weights=None, **columns",
    "read_fit": "path, law=()",
    "design": "source, *, budget, target, **options",
    "plan": "experiment, workers=None",
    "sweep": "experiment, out=None, *, workers=None, seed=0, retry_failed=False, max_seconds=None, allow=(), "
    "report=True, is_quiet=False, track=None, launch=()",
    "results": "directory",
    "open_run": "directory, name",
    "load": "run",
    "tune": "*directories, quantity='learning_rate'",
    "Recipe.tuned_at": "config, powers, source=''",
    "Recipe.read": "path",
    "Recipe.write": "self, path",
    "Run.evaluate": "self, text=None",
    "Run.translate": "self, texts, beam=4",
    "Run.generate": "self, prompt='', num_tokens=100, temperature=1.0, top_k=None, seed=0, top_p=1.0, "
    "stops_at_end=False, stop=(), draft=None",
    "Run.export": "self, path, form='weights'",
    "Fitted.forecast": "self, *, flops=None, reach=None, level=0.9, protect='rolling_origin', **columns",
    "Fitted.forecast_table": "self, points, *, level=0.9, protect='rolling_origin', **columns",
    "Fitted.learning_from": "self, *ledgers",
    "Fitted.optimum": "self, *, flops=None, reach=None, inference_tokens=0.0, unique_tokens=None, "
    "flops_per_param_token=6.0, level=0.9",
    "Fitted.best": "self, *names, level=0.9, **run",
    "Fitted.bootstrap": "self, kind='rows', *, count=400, seed=0",
    "Fitted.plot": "self, name='surface'",
    "Fitted.report": "self",
    "Fitted.to_json": "self",
    "Fitted.save": "self, path",
}
PROPERTIES = {
    "Fitted": {"fits", "constants", "warnings", "analysis", "accuracy"},
    "Results": {"directory", "table", "records", "fit", "ledger", "result", "gaps", "answers", "ask"},
    "Run": {"config", "record", "records", "metrics", "params", "tree", "model", "tokenizer", "name", "trunk_id"}
    | {"directory", "folder"},
}


def runs() -> dict[str, np.ndarray]:
    """Returns 30 runs under our names."""
    sizes, tokens = (each.ravel() for each in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 5)))
    loss = (1.7 + 400 / sizes**0.34 + 410 / tokens**0.28) * np.exp(1e-3 * np.sin(np.arange(30) ** 2))
    return {"num_params_total": sizes, "num_tokens": tokens, "loss": loss}


@pytest.fixture(scope="module")
def law() -> "kb.Fitted":
    return kb.fit(runs())


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOUSE, check=True)
    return done.stdout


def test_what_is_public_is_listed_and_nothing_else():
    public = {name.partition(".")[0] for name in SIGNATURES} | set(PROPERTIES) | {"laws", "Design"}
    assert set(kb.__all__) == public and dir(kb) == sorted([*public, "__version__"])
    with pytest.raises(AttributeError, match="kleiber has no 'ffit'; did you mean 'fit'"):
        kb.ffit  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_public_function_has_the_signature_promised_and_says_what_it_returns(name):
    owner, _, method = name.partition(".")
    function = getattr(getattr(kb, owner), method) if method else getattr(kb, owner)
    parameters = inspect.signature(function).parameters.values()
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    assert str(inspect.Signature(plain)) == f"({SIGNATURES[name]})"
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    assert re.match("Returns|Writes|Plans", inspect.getdoc(function) or "")


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_public_class_has_the_fields_promised(name):
    found = getattr(kb, name)
    fields = {each for each in dir(found) if not each.startswith("_")} | set(found.__dataclass_fields__)
    methods = {each.partition(".")[2] for each in SIGNATURES if each.startswith(f"{name}.")}
    assert fields - methods == PROPERTIES[name]


def test_importing_it_loads_nothing_heavy():
    heavy = {"jax", "flax", "numpy", "scipy", "pandas", "pyarrow", "tyro", "matplotlib"}
    code = "import sys, kleiber as kb; dir(kb), kb.__version__; print(*sys.modules)"
    assert not heavy & set(in_fresh_python(code).split())


def test_fitting_and_forecasting_load_no_jax_and_no_pandas():
    code = (
        "import sys, kleiber as kb\n"
        "n = [1e6, 1e7, 1e8, 1e9] * 3; d = [1e9] * 4 + [1e10] * 4 + [1e11] * 4\n"
        "law = kb.fit({'num_params_total': n, 'num_tokens': d, 'loss': [2 + 1e2 / a**.3 + 1e2 / b**.3 for a, b in "
        "zip(n, d)]})\n"
        "law.forecast(flops=1e22), law.optimum(flops=1e22); print(*sys.modules)"
    )
    assert not {"jax", "pandas", "matplotlib"} & set(in_fresh_python(code).split())


def test_the_module_and_the_command_know_their_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kleiber {kb.__version__}\n"
    said = subprocess.run([sys.executable, "-m", "kleiber", "--version"], capture_output=True, text=True, cwd=HOUSE)
    assert said.stdout == f"kleiber {kb.__version__}\n"


def test_every_kind_of_table_gives_the_same_fit(law, tmp_path):
    frame = pandas.DataFrame(runs()).assign(note="text")
    frame.to_csv(tmp_path / "runs.csv", index=False)
    frame.to_parquet(tmp_path / "runs.parquet")
    kinds = [
        frame,
        frame.set_index("note"),
        pyarrow.table(runs()),
        tmp_path / "runs.csv",
        str(tmp_path / "runs.parquet"),
    ]
    for data in kinds:
        assert {name: each.estimate for name, each in kb.fit(data).constants.items()} == {
            name: each.estimate for name, each in law.constants.items()
        }


def test_an_index_is_no_column():
    frame = pandas.DataFrame(runs())
    twice = pandas.concat([frame, frame.iloc[:1]], ignore_index=True).loc[[*range(1, 31), 0]]
    with pytest.warns(UserWarning, match="1 row that repeats an earlier row in every column left out"):
        assert kb.fit(twice).fits[0].num_points == 30


def test_missing_values_of_a_frame_are_told_and_dropped():
    frame = pandas.DataFrame(runs()).round({"num_tokens": 0}).astype({"num_tokens": "Int64"})
    frame.loc[3, "num_tokens"] = pandas.NA
    frame.loc[5, "loss"] = np.nan
    with pytest.raises(ValueError, match="missing") as told:
        kb.fit(frame)
    (note,) = told.value.__notes__
    assert note == "In Python: kb.fit(..., drop='missing(loss) or missing(num_tokens)')"
    found = kb.fit(frame, drop="missing(loss) or missing(num_tokens)")
    assert found.fits[0].num_points == 28


def test_advice_on_columns_is_given_in_python_too():
    frame = pandas.DataFrame(runs()).rename(columns={"loss": "val_loss"})
    with pytest.raises(ValueError, match="no column 'loss'") as told:
        kb.fit(frame)
    assert told.value.__notes__ == ["In Python: kb.fit(..., loss='val_loss')"]
    with pytest.raises(ValueError, match="a int is no table: give a DataFrame"):
        kb.fit(3)


def test_a_warning_reaches_the_user_and_the_json():
    with pytest.warns(UserWarning, match="NothingDroppedWarning: .* leaves out no row"):
        found = kb.fit(runs(), drop="num_tokens > 1e15")
    assert "leaves out no row" in found.warnings[0] and found.to_json()["warnings"] == list(found.warnings)


def test_the_command_line_and_python_say_the_same_numbers(tmp_path, capsys):
    pandas.DataFrame(runs()).to_csv(tmp_path / "runs.csv", index=False)
    laws, path = "chinchilla,kaplan", tmp_path / "fit.json"
    assert main(["fit", str(tmp_path / "runs.csv"), "--law", laws, "--json", "--fix", "E=1.7"]) == 0
    path.write_text(capsys.readouterr().out)
    ours = kb.fit(tmp_path / "runs.csv", laws.split(","), fix={"E": 1.7}, in_depth=True)
    assert json.loads(json.dumps(ours.to_json())) == read_json(path)
    for words, arguments in (
        (["--num-params", "7e9", "--num-tokens", "1e11"], {"num_params_total": 7e9, "num_tokens": 1e11}),
        (["--flops", "1e22", "--level", "0.8"], {"flops": 1e22, "level": 0.8}),
        (["--reach", "2.0"], {"reach": 2.0}),
    ):
        assert main(["forecast", str(path), *words, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        best = told.pop("optimum")
        assert told.pop("best") == []
        assert told == json.loads(json.dumps(ours.forecast(**arguments).to_json()))
        if best:
            assert best["num_tokens"] == ours.optimum(**arguments).num_tokens
    assert main(["laws"]) == 0
    assert repr(kb.laws) in capsys.readouterr().out
    assert main(["design", str(path), "--budget", "1e21", "--target", "1e23", "--max-runs", "9", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(kb.design(ours, budget=1e21, target=1e23, max_runs=9)))


def test_without_a_law_both_fit_five_forms_and_both_can_be_asked_for_bare_intervals(tmp_path, capsys):
    pandas.DataFrame(runs()).to_csv(tmp_path / "runs.csv", index=False)
    law = kb.fit(tmp_path / "runs.csv")
    point, path = {"num_params_total": 7e9, "num_tokens": 1.4e11}, tmp_path / "fit.json"
    assert main(["fit", str(tmp_path / "runs.csv"), "--json", "--no-in-depth"]) == 0
    path.write_text(capsys.readouterr().out)
    told = json.loads(path.read_text())
    assert unsealed(told) == json.loads(json.dumps(law.to_json())) and len(told["rivals"]) == 4
    bare = law.forecast(protect="none", **point)
    assert bare.rolling_factor == 1 != law.forecast(**point).rolling_factor == told["rolling_origin"]["factor"]
    words = ["--num-params", "7e9", "--num-tokens", "1.4e11", "--protect", "none", "--json"]
    assert main(["forecast", str(path), *words]) == 0
    assert json.loads(capsys.readouterr().out)["interval"] == list(bare.interval)
    asked_off = kb.fit(tmp_path / "runs.csv", protect="none")
    asked_off.save(path)
    assert kb.read_fit(path).forecast(**point) == asked_off.forecast(**point) == bare
    assert kb.read_fit(path).to_json()["rolling_origin"] == {"withheld": "asked off"}


def test_fits_put_together_are_protected_as_if_they_had_been_fitted_together(tmp_path, capsys):
    laws, point = ("chinchilla", "kaplan"), {"num_params_total": 7e9, "num_tokens": 1.4e11}
    for name in laws:
        kb.fit(runs(), name, protect="none").save(tmp_path / f"{name}.json")
    first, second = (str(tmp_path / f"{name}.json") for name in laws)
    words = ["--rivals", second, "--num-params", "7e9", "--num-tokens", "1.4e11", "--json"]
    assert main(["forecast", first, *words]) == 0
    both = kb.fit(runs(), laws).forecast(**point)
    told = json.loads(capsys.readouterr().out)
    assert told["interval"] == pytest.approx(both.interval) and told["rolling_factor"] == both.rolling_factor


def test_a_law_with_constants_is_designed_for_as_on_the_command_line(capsys):
    words = ["--constants", "E=1.8,A=400.0,B=410.0,alpha=0.34,beta=0.28", "--budget", "1e20", "--target", "1e21"]
    assert main(["design", "chinchilla", *words, "--max-runs", "6", "--json"]) == 0
    constants = {"E": 1.8, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
    found = kb.design("chinchilla", constants=constants, budget=1e20, target=1e21, max_runs=6)
    assert json.loads(json.dumps(found)) == json.loads(capsys.readouterr().out)
    with pytest.raises(ValueError, match="unexpected keyword argument 'max_rums'"):
        kb.design("chinchilla", budget=1e20, target=1e21, max_rums=6)


def test_a_forecast_shows_value_interval_level_and_where_its_width_comes_from(law):
    found = law.forecast(num_params_total=7e9, num_tokens=1.4e11)
    low, high = found.interval
    for shown in (repr(found), found._repr_markdown_()):
        assert all(f"{value:.5g}" in shown for value in (found.predicted_loss, low, high))
        assert "90%" in shown and "parameter" in shown and "sigma" in shown
    assert "\n" not in repr(found)


def test_tables_without_pandas_are_dicts_of_arrays(monkeypatch):
    from kleiber.experiments.api.frame import frame

    monkeypatch.setitem(sys.modules, "pandas", None)
    found = frame([{"step": 1, "loss": 2.0}, {"step": 2}])
    assert found["step"].tolist() == [1, 2] and found["loss"].tolist() == [2.0, None]


def test_a_users_program_type_checks(tmp_path):
    right = """
import kleiber as kb
law = kb.fit({"loss": [1.0]}, law="chinchilla", cluster=None, num_tokens="D")
error: float = law.forecast(num_params_total=1e9, num_tokens=1e11).predicted_loss
low, high = law.optimum(flops=1e22).num_params_interval
formula: str = kb.laws["chinchilla"].formula
version: str = kb.__version__
width: int = kb.open_run("out", "d8").config.model.d_model
"""
    wrong = right.replace("predicted_loss", "predicted_los").replace("width: int", "width: str")
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nignore_missing_imports = True\nfollow_imports = silent\n")
    files = [tmp_path / "right.py", tmp_path / "wrong.py"]
    for file, text in zip(files, (right, wrong), strict=True):
        file.write_text(text)
    line = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([*line, *map(str, files)], capture_output=True, text=True, cwd=HOUSE)
    assert done.returncode == 1 and "right.py" not in done.stdout, done.stdout
    assert 'has no attribute "predicted_los"' in done.stdout
    assert "Found 2 errors in 1 file (checked 2 source files)" in done.stdout


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """Returns (the executed notebook of docs/python.md, its folder)."""
    import nbclient
    import nbformat

    folder = tmp_path_factory.mktemp("notebook")
    cells = []
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        if named := re.match(r"# (\w+\.py)\n", block):
            (folder / named[1]).write_text(block)
        else:
            cells.append(nbformat.v4.new_code_cell(block))
    book = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return book, folder


def shown(book, line: str) -> dict:
    """Returns what a notebook shows for the cell that holds a line, by kind."""
    (cell,) = (cell for cell in book.cells if line in cell.source)
    return next(output["data"] for output in cell.outputs if "data" in output)


def test_the_page_runs_as_a_notebook_and_shows_a_fit_a_forecast_and_a_figure(notebook):
    book, _ = notebook
    assert "| alpha | 0.3" in shown(book, "import kleiber as kb\n")["text/markdown"]
    assert "predicted loss" in shown(book, "law.forecast(num_params_total=7e9, num_tokens=1.4e11)\n")["text/markdown"]
    assert "image/png" in shown(book, 'law.plot("frontier")')
    assert "Muennighoff" in shown(book, 'kb.laws["data_constrained"]')["text/plain"]
    assert "to buy" in shown(book, "bought = kb.design")["text/plain"]
    assert shown(book, "ended.exit_code")["text/plain"] == "0"
    assert "(1, 32, 256)" in shown(book, "kb.open_run")["text/plain"]


def test_three_lines_fit_a_law_from_a_frame(notebook):
    (cell,) = (cell for cell in notebook[0].cells if "import kleiber as kb\n" in cell.source)
    assert len([line for line in cell.source.splitlines() if line]) == 3


def test_a_run_is_opened_by_the_beginning_of_its_name_and_gives_what_was_measured(notebook):
    from kleiber.train.checkpoints.checkpoint import load_arrays

    out = notebook[1] / "out" / "two"
    run = kb.open_run(out, "d16-L1-s0")
    assert run.config.model.d_model == 16 and [each["num_tokens"] for each in run.records] == [3_200, 6_400]
    assert run.record["loss"] == json.loads((out / "runs" / run.record["run_id"] / "record.json").read_text())["loss"]
    arrays, _ = load_arrays(out / "runs" / run.record["run_id"] / run.record["final_checkpoint"])
    assert {f"params/{name}" for name in run.params} == {name for name in arrays if name.startswith("params/")}
    assert all(np.array_equal(array, arrays[f"params/{name}"]) for name, array in run.params.items())
    lines = (out / "runs" / run.trunk_id / "metrics.jsonl").read_text().splitlines()
    assert run.metrics["loss"].tolist() == [json.loads(line)["loss"] for line in lines]
    table = kb.results(out).table
    assert sorted(table["loss"]) == sorted(
        each["loss"] for name in ("d8", "d16") for each in kb.open_run(out, name).records
    )
    point = kb.open_run(out, run.records[0]["run_id"])
    assert point.trunk_id == run.trunk_id and point.records == (run.records[0],)


def test_the_module_of_a_run_gives_the_logits_of_the_weights_that_were_trained(notebook):
    from kleiber.model.functional import apply

    run = kb.open_run(notebook[1] / "out" / "two", "d16")
    tokens = np.arange(32, dtype=np.int32)[None]
    tree: dict = {}
    for name, array in run.params.items():
        folders = name.split("/")
        place = tree
        for folder in folders[:-1]:
            place = place.setdefault(folder, {})
        place[folders[-1]] = array
    assert np.array_equal(run.model(tokens), apply(run.config.model, tree, tokens))


def test_an_unknown_run_is_answered_with_the_nearest(notebook):
    out = notebook[1] / "out" / "two"
    with pytest.raises(ValueError, match="has no run 'd17-L1-s0'; the nearest are: d1"):
        kb.open_run(out, "d17-L1-s0")
    with pytest.raises(ValueError, match="2 runs begin so: d16-L1-s0-.*, d8-L1-s0"):
        kb.open_run(out, "d")
    with pytest.raises(FileNotFoundError, match="holds no runs/"):
        kb.open_run(out.parent, "d8")
