"""A law of the user's own: a function in a file or typed in, fitted, forecast and kept as the shipped laws are."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.files import read_json
from kleiber.scaling.table.table import read_table

DATABLATIONS = Path(__file__).parent / "data" / "datablations" / "runs.csv"
NAMES = {"loss": "val_loss", "num_params_total": "params", "num_tokens": "tokens"}
FILE = '''
import numpy as np


def my_law(num_params_total, num_tokens, *, E, A, alpha, B, beta):
    """Two powers."""
    return E + A / num_params_total**alpha + B / num_tokens**beta
'''


def additive(num_params_total, num_tokens, *, E, A, alpha, B, beta):
    return E + A / num_params_total**alpha + B / num_tokens**beta


def of_real_numbers_alone(num_params_total, num_tokens, *, E, A, alpha, B, beta):
    token_term = np.exp(np.logaddexp(np.log(B) - beta * np.log(num_tokens), -1e3))
    return np.maximum(np.abs(E + A / num_params_total**alpha), 0.0) + token_term


def with_a_size(num_params_total, num_tokens, *, E, A, alpha, B, beta):
    return E + np.abs(A / num_params_total**alpha) + B / num_tokens**beta  # np.abs loses what is imaginary


def critical_counts(num_params_total, num_tokens, *, Nc, Dc, aN, aD):
    return ((Nc / num_params_total) ** (aN / aD) + Dc / num_tokens) ** aD


def grid(loss) -> dict[str, np.ndarray]:
    """Returns 42 runs of a law with a ripple of a thousandth, under other people's names."""
    sizes, tokens = (each.ravel() for each in np.meshgrid(np.geomspace(1e6, 1e9, 7), np.geomspace(1e8, 1e11, 6)))
    ripple = np.exp(1e-3 * np.sin(np.arange(42) ** 2))
    return {"params": sizes, "tokens": tokens, "val_loss": loss(sizes, tokens) * ripple}


RUNS = grid(lambda n, d: 1.7 + 400 / n**0.34 + 410 / d**0.28)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Returns a working directory with my_laws.py and runs.csv."""
    monkeypatch.chdir(tmp_path)
    Path("my_laws.py").write_text(FILE)
    rows = zip(*(each.tolist() for each in RUNS.values()), strict=True)
    Path("runs.csv").write_text("\n".join([",".join(RUNS), *(",".join(map(repr, row)) for row in rows)]))
    return tmp_path


@pytest.mark.parametrize("law", [additive, of_real_numbers_alone, with_a_size])
@pytest.mark.parametrize("runs", ["grid", "datablations"])
def test_the_additive_law_written_by_a_user_is_the_shipped_one(law, runs):
    options = {} if runs == "grid" else {"drop": "unique_tokens < tokens or in_published_fit == 0"}
    data = RUNS if runs == "grid" else DATABLATIONS
    (own,), (shipped,) = (kb.fit(data, each, **options, **NAMES).fits for each in (law, "chinchilla"))
    assert own.residual_rms == pytest.approx(shipped.residual_rms, rel=1e-6)
    for name, each in shipped.parameters.items():
        assert own.parameters[name].estimate == pytest.approx(each.estimate, rel=1e-5)
        assert own.parameters[name].interval_95 == pytest.approx(each.interval_95, rel=1e-4)
        assert (own.parameters[name].withheld is None) == (each.withheld is None)
    # The same to three digits, so columns were centred by the formula's own rule.
    assert own.identifiability.condition == pytest.approx(shipped.identifiability.condition, rel=1e-3)
    assert own.optimum["a"] == pytest.approx(shipped.optimum["a"], rel=1e-6)


def test_an_own_law_alone_is_protected_as_the_shipped_one_is():
    point = {"num_params_total": 7e10, "num_tokens": 1.4e12}
    own, shipped = (kb.fit(RUNS, law, **NAMES) for law in (additive, "chinchilla"))
    found, right = own.forecast(**point), shipped.forecast(**point)
    assert found.interval == pytest.approx(right.interval, rel=1e-5)
    assert found.rolling_factor == pytest.approx(right.rolling_factor, rel=1e-4) != 1
    assert found.parts["extrapolation"] == right.parts["extrapolation"] > 0
    low, high = own.forecast(protect="none", **point).interval
    assert found.interval[0] < low < high < found.interval[1]


def test_a_formula_shows_its_linear_constants_and_how_they_turn_with_units():
    (own,) = kb.fit(RUNS, additive, **NAMES).fits
    assert own.definition.linear == (("E",), ("A",), ("B",))
    assert own.definition["A"].scale == (("num_params_total", "alpha"),)
    assert own.definition["B"].scale == (("num_tokens", "beta"),)
    assert own.definition["alpha"].scale == () and own.definition.floor == "E"


def test_critical_counts_of_ten_trillion_are_found_without_a_range():
    runs = grid(lambda n, d: critical_counts(n, d, Nc=8.8e13, Dc=5.4e13, aN=0.076, aD=0.095))
    law, shipped = kb.fit(runs, critical_counts, **NAMES), kb.fit(runs, "kaplan", **NAMES).constants
    assert law.fits[0].definition["Nc"].scale == (("num_params_total", 1.0),)
    for ours, theirs in {"aN": "alpha_N", "aD": "alpha_D", "Nc": "N_c", "Dc": "D_c"}.items():
        assert law.constants[ours].estimate == pytest.approx(shipped[theirs].estimate, rel=1e-5)
    assert law.constants["Nc"].estimate == pytest.approx(8.8e13, rel=0.05)


def test_a_law_of_other_columns_is_forecast_by_their_names():
    def shape(width, depth, *, A, a, b: (0.0, 3.0)):
        return A * width**-a * depth**-b

    width, depth = (each.ravel() for each in np.meshgrid([64.0, 128, 256, 512], [2.0, 4, 8, 16]))
    loss = 9 * width**-0.2 * depth**-0.1 * np.exp(1e-3 * np.sin(np.arange(16) ** 2))
    law = kb.fit({"width": width, "depth": depth, "loss": loss}, shape)
    found = law.forecast(width=1024, depth=32)
    assert found.interval[0] < 9 * 1024**-0.2 * 32**-0.1 < found.interval[1]
    assert found.to_json()["compute_ratio"] is None and found.num_tokens is None
    assert found.report().startswith("shape\n  predicted loss")
    with pytest.raises(ValueError, match="also needs a value for depth"):
        law.forecast(width=1024)
    with pytest.raises(ValueError, match="knows no 'heads'; it needs depth, width"):
        law.forecast(width=1024, depth=32, heads=8)


def test_a_constant_may_be_negative_where_its_bounds_say_so():
    def with_sign(num_params_total, *, E, A, c):
        return E + A / num_params_total**0.3 + c * np.log(num_params_total)

    with_sign.bounds = {"c": (-1.0, 1.0)}
    sizes = np.geomspace(1e6, 1e9, 12)
    loss = (3 + 100 / sizes**0.3 - 0.02 * np.log(sizes)) * np.exp(1e-5 * np.sin(np.arange(12) ** 2))
    law = kb.fit({"num_params_total": sizes, "loss": loss}, with_sign)
    assert law.constants["c"].estimate == pytest.approx(-0.02, rel=0.05)


def no_constants(num_params_total, num_tokens):
    return num_params_total


def idle(num_params_total, num_tokens, *, E, A, C):
    return E + A / num_params_total


def not_a_number(num_params_total, num_tokens, *, E, A):
    return E + A * np.log(1 - num_params_total)


def one_for_all(num_params_total, num_tokens, *, E, A):
    return np.sum(E + A / num_params_total)


def mixed(num_params_total, num_tokens, *, E, A):
    return E + A * num_params_total / np.max(num_params_total)


def of_one_number(num_params_total, num_tokens, *, E, A):
    return E + A * math.exp(-num_params_total)


def odd_bounds(num_params_total, num_tokens, *, E, A: (2, 1)):
    return E + A / num_params_total


def other_column(banana, *, E, A):
    return E + A / banana


def chinchilla(num_params_total, *, E, A):
    return E + A / num_params_total


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (no_constants, "constants after a *"),
        (idle, "constant 'C' does nothing"),
        (not_a_number, "gives nan at row 1 of those used (num_params_total 1e+06, num_tokens 1e+08)"),
        (one_for_all, "gives an array [] for 64 sets"),
        (mixed, "changes with the other runs given"),
        (of_one_number, "use numpy's functions"),
        (odd_bounds, "bounds of A are (2, 1), expected (low, high)"),
        (other_column, "no column 'banana'"),
        (chinchilla, "call your function something else"),
        (lambda num_tokens, *, E: E + num_tokens, "a law needs a name"),
    ],
)
def test_a_wrong_law_is_told_what_is_wrong_in_a_line(law, words):
    with pytest.raises(ValueError) as told:
        kb.fit(RUNS, law, **NAMES)
    assert words in str(told.value) and "\n" not in str(told.value)


def test_a_fixed_constant_that_the_law_lacks_is_named():
    with pytest.raises(ValueError, match="has no constant 'Q' to fix; it has E, A, alpha, B, beta"):
        kb.fit(RUNS, additive, fix={"Q": 1.0}, **NAMES)


def test_a_file_on_the_command_line_and_a_function_in_python_say_the_same(folder, capsys):
    columns = ",".join(f"{ours}={theirs}" for ours, theirs in NAMES.items())
    assert main(["fit", "runs.csv", "--columns", columns, "--law", "my_laws.py:my_law", "--json"]) == 0
    Path("fit.json").write_text(capsys.readouterr().out)
    told = read_json(Path("fit.json"))
    law = kb.fit("runs.csv", "my_laws.py:my_law", in_depth=True, **NAMES)
    assert json.loads(json.dumps(law.to_json())) == told
    assert told["formula"] == "L = E + A / num_params_total**alpha + B / num_tokens**beta"
    assert main(["forecast", "fit.json", "--num-params", "7e9", "--num-tokens", "1.4e11", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ours = law.forecast(num_params_total=7e9, num_tokens=1.4e11)
    assert (found["predicted_loss"], found["interval"]) == (ours.predicted_loss, list(ours.interval))


def test_shipped_and_own_laws_are_compared_on_runs_beyond_the_fit(folder, capsys):
    law = kb.fit("runs.csv", ["chinchilla", "my_laws.py:my_law"], in_depth=True, fix={"E": 1.7}, **NAMES)
    scores = {each.law: each.log_score for each in law.analysis.selection.scores}
    assert scores["my_law"] == pytest.approx(scores["chinchilla"], rel=1e-6)
    assert all(fit.parameters["E"].fixed for fit in law.fits)


def test_a_kept_fit_refuses_a_changed_law_and_takes_a_moved_one(folder):
    kb.fit("runs.csv", "my_laws.py:my_law", **NAMES).save("fit.json")
    expected = kb.read_fit("fit.json").forecast(flops=1e22)
    Path("my_laws.py").rename("moved.py")
    with pytest.raises(ValueError, match=r"my_laws.py:my_law is not there; give it again"):
        kb.read_fit("fit.json")
    assert kb.read_fit("fit.json", law="moved.py:my_law").forecast(flops=1e22) == expected
    assert main(["forecast", "fit.json", "--flops", "1e22", "--law", "moved.py:my_law"]) == 0
    for place in ("my_laws.py", "moved.py"):
        Path(place).write_text(FILE.replace("B / num_tokens", "B / num_tokens / 2"))
    for given in ((), "moved.py:my_law"):
        with pytest.raises(ValueError, match="is not the one that was fitted: its text has changed"):
            kb.read_fit("fit.json", law=given)


def test_what_lies_in_the_json_is_never_run(folder):
    kb.fit("runs.csv", "my_laws.py:my_law", **NAMES).save("fit.json")
    data = read_json(Path("fit.json"))
    data["own_law"]["source"] = data["formula"] = "__import__('pathlib').Path('canary').touch()"
    Path("fit.json").write_text(json.dumps(data))
    assert kb.read_fit("fit.json").forecast(flops=1e22).predicted_loss > 1.7
    data["own_law"]["path"] = ""
    Path("fit.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="give it again"):
        kb.read_fit("fit.json")
    assert not Path("canary").exists()


def test_an_edited_file_is_read_as_it_stands_and_not_as_it_was_compiled(folder, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    found = []
    for factor in (2, 4):  # texts of one length within one second, which Python's cache of compiled files mistakes
        Path("my_laws.py").write_text(FILE.replace("B / num_tokens", f"{factor} * B / num_tokens"))
        os.utime("my_laws.py", (1e9, 1e9))
        found.append(kb.fit("runs.csv", "my_laws.py:my_law", **NAMES).constants["B"].estimate)
    assert found[0] == pytest.approx(2 * found[1], rel=1e-6)


def test_a_file_without_the_function_names_the_nearest(folder, capsys):
    assert main(["fit", "runs.csv", "--law", "my_laws.py:my_lav"]) == 2
    assert "has no function 'my_lav'; did you mean 'my_law'?" in capsys.readouterr().err
    assert main(["fit", "runs.csv", "--law", "none.py:my_law"]) == 2
    assert "there is no file none.py" in capsys.readouterr().err
    assert main(["laws", "my_laws.py:my_law"]) == 0
    assert "Two powers." in capsys.readouterr().out


def test_a_fit_given_a_law_as_an_object_predicts_and_is_kept():
    from dataclasses import replace

    from kleiber.scaling.fitting.fit import fit_law

    mine = replace(kb.laws["chinchilla"], id="mine")
    fit = fit_law(read_table(RUNS, NAMES), mine)
    at = {"num_params_total": 1e9, "num_tokens": 1e11}
    assert fit.predict(at)[0] == pytest.approx(1.7 + 400 / 1e9**0.34 + 410 / 1e11**0.28, rel=5e-3)
    assert fit.to_json()["law"] == "mine" and "mine" in fit.report()
    assert type(fit).from_json(fit.to_json(), mine).predict(at) == fit.predict(at)
