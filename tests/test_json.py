"""Claims about `--json`: one whole object on standard output, with the keys that docs/json.md names."""

import json
import math
import re
from pathlib import Path

import pytest

from kleiber.experiments.cli import main
from kleiber.scaling.forecasting.ledger import Ledger

PAGE = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")


def documented(section: str) -> set[str]:
    """Returns the keys in the first column of a section's table."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return {
        key for row in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE) for key in re.findall(r"`(\w+)`", row)
    }


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def printed(capsys):
    """Returns a function that runs a command line and returns the object it printed."""

    def run(*words: str) -> dict:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out, parse_constant=refuse_constant)

    return run


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a table of losses that follow an additive law, with a ripple of a thousandth."""
    rows = ["params,tokens,val_loss"]
    for i, params in enumerate((1e6, 3e6, 1e7, 3e7, 1e8)):
        for j, tokens in enumerate((2e7, 1e8, 5e8, 2e9, 1e10)):
            ripple = 1 + 1e-3 * math.sin(7 * i + 13 * j)
            rows.append(f"{params},{tokens},{(1.7 + 400 / params**0.34 + 410 / tokens**0.28) * ripple}")
    path = tmp_path_factory.mktemp("json") / "runs.csv"
    path.write_text("\n".join(rows))
    return path


def fit_line(table: Path) -> list[str]:
    return ["fit", str(table), "--columns", "loss=val_loss,num_params_total=params,num_tokens=tokens"]


def test_plan_prints_what_is_documented(printed):
    assert set(printed("plan", "miniature")) == documented("kleiber plan")


def test_fit_prints_what_is_documented(printed, table):
    assert set(printed(*fit_line(table))) == documented("kleiber fit")


def test_what_follows_from_a_fit_is_documented_to_the_last_key(printed, table):
    found = printed(*fit_line(table))
    text = PAGE.split("\n## kleiber fit\n")[1].split("\n## ")[0]
    for part in ("cross_validation", "factors", "approaches"):
        (about,) = re.findall(rf"^`{part}`[,:](.*?)\n\n", text + "\n", flags=re.MULTILINE | re.DOTALL)
        keys = {key for each in found[part].values() if isinstance(each, list) for row in each for key in row}
        assert found[part]["withheld"] is None
        assert keys | set(found[part]) <= {*re.findall(r"`(\w+)`", about), "withheld"}


def test_several_laws_share_one_cross_validation(printed, table):
    found = printed(*fit_line(table), "--law", "chinchilla,product")
    assert set(found) == {"fits", "comparison", "cross_validation", "form_weights", "rolling_origin", "sealed", "seal"}
    assert found["cross_validation"]["best"] == "chinchilla"
    assert set(found["fits"][0]) == documented("kleiber fit") - set(found) - {"rivals"}
    plain = printed(*fit_line(table), "--no-in-depth")
    assert plain["factors"] == {"withheld": "not asked for"}


def test_forecast_prints_what_is_documented(printed, table, tmp_path):
    (tmp_path / "fit.json").write_text(json.dumps(printed(*fit_line(table))))
    budget = printed("forecast", str(tmp_path / "fit.json"), "--flops", "1e19")
    assert set(budget) == documented("kleiber forecast")
    row = next(line for line in PAGE.splitlines() if line.startswith("| `optimum` | with `--flops`"))
    assert set(budget["optimum"]) == set(re.findall(r"`(\w+)`", row)) - {"optimum"}
    reach = printed("forecast", str(tmp_path / "fit.json"), "--reach", "2.2", "--inference-tokens", "1e12")
    assert set(reach["optimum"]) == set(budget["optimum"])


def test_design_prints_what_is_documented(printed):
    budget = ["--budget", "2e14", "--target", "2e14", "--ladder", "5", "--max-runs", "6"]
    assert set(printed("design", "chinchilla", *budget)) == documented("kleiber design")


def test_ledger_prints_what_is_documented(printed, tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    about = {"num_params_total": 10, "num_tokens": 20, "flops": 1.0, "compute_ratio": 4.0, "law": "chinchilla"}
    ledger.register(target="big", **about, predicted_loss=1.25, interval=(1.2, 1.3), baselines={"last_point": 1.4})
    ledger.outcome("big", "run-1", 1.26)
    found = printed("ledger", str(ledger.path))
    keys = {key for name in ("targets", "history") for row in found[name] for key in row}
    assert set(found) | keys == documented("kleiber ledger") | described("targets") | described("history")


def described(key: str) -> set[str]:
    """Returns the keys that the row of a key of `kleiber ledger` lists."""
    text = PAGE.split("\n## kleiber ledger\n")[1].split("\n## ")[0]
    (row,) = re.findall(rf"^\| `{key}` \| (.*) \|$", text, flags=re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row))


def test_laws_print_what_is_documented(printed):
    assert set(printed("laws")) == documented("kleiber laws")


def test_data_list_prints_what_is_documented(printed):
    assert set(printed("data", "list")) == documented("kleiber data list")


def test_import_prints_what_is_documented(printed, table):
    found = printed("import", str(table), "--dry-run")
    assert set(found) == documented("kleiber import")
    assert found["mapping"] == {"loss": "val_loss", "num_params_total": "params", "num_tokens": "tokens"}


def test_every_verb_with_json_has_a_section():
    commands = (Path(__file__).parent.parent / "experiments" / "commands").glob("[!_]*.py")
    verbs = {path.stem for path in commands if re.search(r"^    json: ", path.read_text(), flags=re.MULTILINE)}
    assert {verb for verb in verbs if f"kleiber {verb}" not in PAGE} == set()
