"""`kleiber design`: the same answer as the library, its JSON whole, its mistakes explained."""

import json
from pathlib import Path

import numpy as np
import pytest

from kleiber.experiments.cli import main
from kleiber.scaling.designing.simulate import simulate_table
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.noise import RunNoise
from truth.designs import REFERENCE, isoflop

LAW = ["design", "chinchilla", "--constants", "E=0.8,A=25.1,B=100,alpha=0.35,beta=0.34", "--ladder", "8"]
KEYS = {
    *("law", "source", "constants", "noise", "aim", "level", "budget_flops", "spent_flops", "max_run_flops", "target"),
    *("runs", "expected", "before", "grid", "gain_over_grid", "rivals", "rehearsal", "notes"),
}


def run(arguments: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str, str]:
    code = main(arguments)
    found = capsys.readouterr()
    return code, found.out, found.err


def test_a_law_gives_a_design_as_whole_json(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run([*LAW, "--budget", "2e14", "--target", "2e14", "--max-runs", "20", "--json"], capsys)
    found = json.loads(out)
    assert code == 0 and set(found) == KEYS
    assert found["spent_flops"] <= 2e14 * (1 + 1e-9)
    assert sum(row["added_flops"] for row in found["runs"]) == pytest.approx(found["spent_flops"])
    assert found["runs"][-1]["forecast_error"] == pytest.approx(found["expected"]["forecast"], rel=0.01)
    assert found["target"]["flops"] == pytest.approx(2e14)
    cells = [(row["num_params_total"], row["num_tokens"]) for row in found["runs"]]
    assert max(cells.count(cell) for cell in cells) <= 3


def test_branches_of_trunks_add_up_to_what_is_spent(capsys: pytest.CaptureFixture) -> None:
    options = ["--budget", "2e14", "--target", "2e14", "--max-runs", "16", "--trunks", "1", "--tau", "0.004", "--json"]
    found = json.loads(run([*LAW, *options], capsys)[1])
    assert sum(row["added_flops"] for row in found["runs"]) == pytest.approx(found["spent_flops"])
    assert len({row["trunk"] for row in found["runs"]}) < len(found["runs"])


def test_a_fit_knows_its_own_runs_and_gives_the_target_an_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = simulate_table("chinchilla", REFERENCE, isoflop(REFERENCE, flops=(1e12, 1e14)), RunNoise(0.005), 1)
    (tmp_path / "fit.json").write_text(json.dumps(fit_law(table, "chinchilla").to_json()))
    options = ["--budget", "1e14", "--target", "1e16", "--max-runs", "8", "--ladder", "8", "--json"]
    code, out, _ = run(["design", str(tmp_path / "fit.json"), *options], capsys)
    found = json.loads(out)
    assert code == 0 and found["source"] == "fit"
    assert found["expected"]["forecast"] < found["before"]["forecast"]
    low, high = found["target"]["num_params_interval"]
    assert low < found["target"]["num_params_total"] < high


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a fit that withholds alpha: three sizes within a factor of four, and noise."""
    sizes, tokens = np.meshgrid([1e4, 2e4, 4e4], [1e5, 1e6, 1e7])
    columns = {"num_params_total": sizes.ravel(), "num_tokens": tokens.ravel()}
    fit = fit_law(simulate_table("chinchilla", REFERENCE, columns, RunNoise(0.006), 5), "chinchilla")
    assert str(fit.parameters["alpha"].withheld).startswith("loose-alpha") and not fit.parameters["beta"].withheld
    path = tmp_path_factory.mktemp("loose") / "fit.json"
    path.write_text(json.dumps(fit.to_json()))
    return path


@pytest.mark.parametrize("options", [["--flops", "1e13"], ["--reach", "2.0"]])
def test_a_withheld_exponent_is_refused_with_the_range_and_the_runs_that_would_give_it(
    loose: Path, capsys: pytest.CaptureFixture, options: list[str]
) -> None:
    state = json.loads(loose.read_text())["state"]
    alpha = state["free"].index("alpha")
    times = state["covariance"][alpha][alpha] ** 0.5 / 0.5  # by as much its relative error must fall
    code, _, told = run(["forecast", str(loose), *options], capsys)
    assert code == 2 and "the fit withholds alpha: loose-alpha" in told and "beta" not in told
    assert f"num_params_total over a factor of about {4**times:.2g} in place of 4, small runs first" in told
    assert f"or {times**2:.2g} times as many runs" in told and "kleiber design on this fit proposes which runs" in told


def test_a_design_takes_the_best_values_of_withheld_exponents_for_guesses_and_says_so(
    loose: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--budget", "1e13", "--target", "1e13", "--max-runs", "4", "--ladder", "6", "--json"]
    code, out, _ = run(["design", str(loose), *options], capsys)
    found = json.loads(out)
    assert code == 0 and len(found["runs"]) == 4 and found["target"]["num_params_interval"] is None
    assert found["notes"][0].startswith("the fit withholds alpha: its best values, alpha 0.")


def test_people_see_a_table(capsys: pytest.CaptureFixture) -> None:
    options = ["--budget", "2e14", "--target", "2e14", "--max-runs", "12", "--rehearse", "5"]
    code, out, _ = run([*LAW, *options], capsys)
    assert code == 0 and "to buy       12 runs" in out and "best grid" in out and "rehearsed    5 times" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["design", "chinchila", "--budget", "1e14", "--target", "1e15"], "Did you mean 'chinchilla'"),
        (["design", "chinchilla", "--budget", "0", "--target", "1e15"], "above 0"),
        (["design", "chinchilla", "--budget", "1e14", "--target", "1e15", "--levels", "bits=4"], "has no 'bits'"),
        (["design", "product", "--budget", "1e14", "--target", "1e15"], "--constants"),
        (["design", "no.json", "--budget", "1e14", "--target", "1e15"], "no fit at no.json"),
        (["design", "precision", "--budget", "1e14", "--target", "1e15"], "plan with a law of N and D"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    code, out, err = run(arguments, capsys)
    assert code == 2 and out == "" and message in err and len(err.strip().splitlines()) == 1


def test_a_written_design_is_an_experiment_that_plan_accepts_with_the_runs_it_chose(tmp_path, capsys):
    path = tmp_path / "bought.py"
    law = ["design", "chinchilla", "--constants", "E=1,A=490,B=750,alpha=0.73,beta=0.57", "--ladder", "8"]
    options = ["--budget", "2e13", "--target", "1e13", "--max-run", "2e12", "--max-runs", "16", "--json"]
    options += ["--num-params", "1e4", "2e5", "--num-tokens", "1e5", "6e6"]
    code, out, _ = run([*law, *options, "--write", str(path)], capsys)
    runs = json.loads(out)["runs"]
    code, out, _ = run(["plan", str(path), "--json"], capsys)
    plan = json.loads(out)
    points = [point for point in plan["points"] if point["split"] == "fit"]
    assert code == 0 and not plan["refusals"] and len(points) == len(runs) and plan["num_targets"] == 1
    asked, made = (sorted((r["num_params_total"], r["num_tokens"]) for r in rows) for rows in (runs, points))
    for (size, _), (own, _) in zip(asked, made, strict=True):
        assert 0.7 < own / size < 1.4  # a ladder of widths in eights is coarse at ten thousand parameters
    assert sum(n for _, n in made) == pytest.approx(sum(n for _, n in asked), rel=0.01)
    code, _, err = run([*law, *options, "--write", str(path)], capsys)
    assert code == 2 and "new file" in err


def test_a_design_of_what_no_config_says_is_not_written(tmp_path, capsys):
    options = ["--budget", "1e20", "--target", "1e20", "--levels", "weight_bits=4:16", "--at", "weight_bits=16"]
    options += ["--target-params", "1e9", "--target-tokens", "2e10", "--num-params", "1e7", "1e9"]
    options += ["--num-tokens", "1e8", "1e10"]
    code, _, err = run(["design", "precision", *options, "--ladder", "6", "--write", str(tmp_path / "x.py")], capsys)
    assert code == 2 and "no config follows from weight_bits" in err and not (tmp_path / "x.py").exists()
