"""The commands of a newcomer: from a CSV with unfamiliar names to a forecast, guided by the messages."""

import json
import re
import shlex

import numpy as np
import pytest

from kleiber.experiments.cli import main
from kleiber.scaling.forecasting.ledger import Ledger
from truth.designs import REFERENCE, grid, surface


@pytest.fixture
def csv(tmp_path):
    columns = grid()
    model = surface(columns)
    loss = np.exp(model.log_loss(model.working(REFERENCE)[None])[0] + 0.005 * np.sin(np.arange(40) ** 2))
    rows = zip(columns["num_params_total"], columns["num_tokens"], loss, strict=True)
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,val_loss\n" + "\n".join(",".join(map(repr, map(float, row))) for row in rows))
    return path


MAPPING = "loss=val_loss,num_params_total=params,num_tokens=tokens"


def test_messages_lead_to_a_forecast(csv, tmp_path, capsys):
    assert main(["fit", str(csv)]) == 2
    assert "--columns loss=val_loss" in capsys.readouterr().err
    assert main(["fit", str(csv), "--columns", MAPPING, "--json"]) == 0
    fit = json.loads(capsys.readouterr().out)
    assert fit["parameters"]["alpha"]["estimate"] == pytest.approx(0.35, abs=0.03)
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(fit))
    assert main(["forecast", str(path), "--num-params", "1e9", "--num-tokens", "1e11", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["interval"][0] < found["predicted_loss"] < found["interval"][1]
    assert main(["forecast", str(path), "--flops", "1e20"]) == 0
    assert "best run of 1e+20" in capsys.readouterr().out


def test_a_newcomer_pastes_what_the_errors_say_and_gets_a_forecast(csv, tmp_path, capsys):
    rows = [line.split(",") for line in csv.read_text().splitlines()[1:]]
    text = "Name;State;params_b;tokens (B);train_loss;final_val_loss;gpu util\n"
    for params, tokens, loss in rows:
        text += f"run;finished;{float(params) / 1e9};{float(tokens) / 1e9};{loss};{loss};81%\n"
    path = tmp_path / "wandb.csv"
    path.write_text(text + "run;crashed;0.1;2;;NaN;\nrun;killed;0.1;;;oom;\n")
    line = ["fit", str(path), "--json"]
    for _ in range(4):  # names, then texts, then what is missing
        code = main(line)
        out, err = capsys.readouterr()
        if code == 0:
            break
        option, value = shlex.split(re.search(r"(--(?:columns|drop) '.*')", err)[1])
        line = [*line, option, value] if option not in line else [*line[: line.index(option) + 1], value]
    assert code == 0
    (tmp_path / "fit.json").write_text(out)
    assert main(["forecast", str(tmp_path / "fit.json"), "--num-params", "1e9", "--num-tokens", "1e11", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["interval"][0] < 0.8 + 25.1 * 1e9**-0.35 + 100 * 1e11**-0.34 < found["interval"][1]


def test_a_warning_about_the_table_reaches_the_terminal_and_the_json(csv, capsys):
    line = ["fit", str(csv), "--columns", MAPPING, "--no-in-depth", "--json", "--drop", "tokens > 1e15"]
    assert main(line) == 0
    out, err = capsys.readouterr()
    assert "NothingDroppedWarning" in err and "leaves out no row" in json.loads(out)["warnings"][0]


def test_a_budget_is_spent_as_the_table_counts(csv, tmp_path, capsys):
    line = ["fit", str(csv), "--columns", f"{MAPPING},flops=params*tokens*9", "--no-in-depth", "--json"]
    assert main(line) == 0
    path = tmp_path / "fit.json"
    path.write_text(capsys.readouterr().out)
    found = []
    for rule in ("counted", "9", "6"):
        assert main(["forecast", str(path), "--flops", "1e20", "--flops-per-param-token", rule, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["optimum"])
    assert found[0]["num_params_total"] == pytest.approx(found[1]["num_params_total"])
    assert found[0]["num_params_total"] < found[2]["num_params_total"]


def test_tokens_to_serve_shrink_the_model_that_a_loss_needs(csv, tmp_path, capsys):
    assert main(["fit", str(csv), "--columns", MAPPING, "--law", "chinchilla", "--no-in-depth", "--json"]) == 0
    path = tmp_path / "fit.json"
    path.write_text(capsys.readouterr().out)
    found = []
    for served in ("0", "1e13"):
        assert main(["forecast", str(path), "--reach", "1.0", "--inference-tokens", served, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    alone, serving = (each["optimum"] for each in found)
    assert serving["num_params_total"] < alone["num_params_total"] and serving["num_tokens"] > alone["num_tokens"]
    assert serving["inference_flops"] == pytest.approx(2 * serving["num_params_total"] * 1e13)
    assert all(each["predicted_loss"] == pytest.approx(1.0, abs=1e-6) for each in found)
    assert main(["forecast", str(path), "--reach", "1.0", "--flops", "1e18"]) == 2
    assert "--reach L" in capsys.readouterr().err


def test_several_laws_are_compared(csv, capsys):
    assert main(["fit", str(csv), "--columns", MAPPING, "--law", "chinchilla", "--law", "product", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert [fit["law"] for fit in out["fits"]] == ["chinchilla", "product"]
    assert out["comparison"][0]["weight"] == pytest.approx(1.0)


def test_the_report_says_which_law_predicts_and_what_each_factor_does(csv, capsys):
    assert main(["fit", str(csv), "--columns", MAPPING, "--law", "chinchilla,product"]) == 0
    out = capsys.readouterr().out
    for part in ("rolling origin", "log score", "local exponents of chinchilla", "rejected, because", "3 parametric"):
        assert part in out


def test_a_fixed_constant_of_no_law_is_an_error(csv, capsys):
    line = ["fit", str(csv), "--columns", MAPPING, "--law", "chinchilla,product", "--no-in-depth", "--json"]
    assert main([*line, "--fix", "F=1"]) == 2
    assert "none of chinchilla, product has a constant 'F'" in capsys.readouterr().err
    assert main([*line, "--fix", "K=60"]) == 0
    fits = json.loads(capsys.readouterr().out)["fits"]
    assert fits[1]["parameters"]["K"]["fixed"] and not any(p["fixed"] for p in fits[0]["parameters"].values())


def test_a_forecast_is_registered_scored_and_drawn_from_the_command_line(csv, tmp_path, capsys):
    fit, ledger, figure = tmp_path / "fit.json", tmp_path / "ledger.jsonl", tmp_path / "ledger.png"
    folder = tmp_path / "figures"
    assert main(["fit", str(csv), "--columns", MAPPING, "--no-in-depth", "--json", "--figures", str(folder)]) == 0
    fit.write_text(capsys.readouterr().out)
    drawn = {path.name for path in folder.glob("*.png")}
    assert drawn == {f"chinchilla_{name}.png" for name in ("surface", "residuals", "frontier", "exponents", "profiles")}
    point = ["--num-params", "1e9", "--num-tokens", "1e11"]
    assert main(["forecast", str(fit), *point, "--register", str(ledger)]) == 2
    assert "--name" in capsys.readouterr().err
    assert main(["forecast", str(fit), *point, "--register", str(ledger), "--name", "big"]) == 0
    assert main(["ledger", str(ledger), "--outcome", "big=0.85", "--figure", str(figure), "--json"]) == 0
    board = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert board["num_scored"] == 1 and board["history"][0]["target"] == "big"
    assert set(board["skill"]) == {"last_point", "product", "log_linear"} and figure.stat().st_size > 10_000
    assert main(["ledger", str(ledger), "--outcome", "big=0.95"]) == 2
    assert "has the outcome 0.85 of big" in capsys.readouterr().err


def test_a_misspelt_law_is_a_usage_error(csv, capsys):
    assert main(["fit", str(csv), "--columns", MAPPING, "--law", "chinchila"]) == 2
    assert "Did you mean 'chinchilla'" in capsys.readouterr().err


def test_laws_lists_formula_and_source(capsys):
    assert main(["laws", "--json"]) == 0
    laws = {law["id"]: law for law in json.loads(capsys.readouterr().out)["laws"]}
    assert laws["chinchilla"]["formula"] == "L = E + A / N^alpha + B / D^beta"
    assert main(["laws", "kaplan"]) == 0
    assert "2001.08361" in capsys.readouterr().out
    assert main(["laws", "inference_aware"]) == 0
    assert "2401.00448" in capsys.readouterr().out
    assert main(["laws"]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in ("chinchilla", "multi_power", "inference_aware"))
    assert main(["laws", "inference_awre"]) == 2


def test_ledger_command_refuses_a_tampered_file(tmp_path, capsys):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    forecast = {"num_params_total": 10, "num_tokens": 20, "flops": 1.0, "compute_ratio": 4.0, "law": "chinchilla"}
    ledger.register(target="big", **forecast, predicted_loss=1.25, interval=(1.2, 1.3))
    assert main(["ledger", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["intact"] is True
    ledger.path.write_text(ledger.path.read_text().replace("1.25", "1.26"))
    assert main(["ledger", str(tmp_path)]) == 2
    assert "was edited" in capsys.readouterr().err
