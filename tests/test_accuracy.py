"""From the loss to accuracy: the published form, intervals that take in both laws, and the way there and back."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.scaling.forecasting.chain import chained
from kleiber.scaling.table.warned import NotPositiveError

OLMO = Path(__file__).parent / "data" / "tables" / "olmo_bpb_hellaswag_val.csv"
COLUMNS = {"num_params_total": "N", "num_tokens": "D", "accuracy": "acc"}


def sigmoid(loss: np.ndarray) -> np.ndarray:
    """Returns a rise from .25 to .95 with a published shape (Bhagia et al. 2024)."""
    return 0.25 + 0.7 / (1 + np.exp(10 * (loss - 0.85)))


def ladder(seed: int = 0, noise: float = 0.03) -> dict[str, np.ndarray]:
    """Returns the measured losses of the OLMo ladder on HellaSwag, with accuracies planted on them."""
    with OLMO.open() as file:
        rows = [{name: float(each) for name, each in row.items()} for row in csv.DictReader(file)]
    table = {name: np.array([row[name] for row in rows]) for name in ("N", "D", "loss")}
    logit = np.log(sigmoid(table["loss"]) / (1 - sigmoid(table["loss"])))
    logit = logit + noise * np.random.default_rng(seed).normal(size=logit.size)
    return {**table, "acc": 1 / (1 + np.exp(-logit))}


@pytest.fixture(scope="module")
def found() -> kb.Fitted:
    return kb.fit(ladder(), **COLUMNS)


def test_accuracy_by_loss_is_what_scipy_fits(found):
    from scipy.optimize import curve_fit

    table = ladder()

    def logit(loss: np.ndarray, chance: float, gain: float, steepness: float, midpoint: float) -> np.ndarray:
        share = chance + gain / (1 + np.exp(steepness * (loss - midpoint)))
        return np.log(share / (1 - share))

    wanted, _ = curve_fit(logit, table["loss"], np.log(table["acc"] / (1 - table["acc"])), (0.25, 0.7, 10, 0.85))
    got = [found.accuracy.parameters[name].estimate for name in ("chance", "gain", "steepness", "midpoint")]
    assert got == pytest.approx(wanted, rel=1e-4)


def test_the_interval_takes_in_both_laws(found):
    one = found.forecast(num_params_total=7e9, num_tokens=4e12)
    chain = one.accuracy
    low, high = chain.interval
    loss, constants, noise = chain.parts
    assert chain.predicted_accuracy == pytest.approx(sigmoid(np.float64(one.predicted_loss)), abs=0.02)
    assert low < chain.predicted_accuracy < high and min(chain.parts) > 0
    exact = chained(found.accuracy, one.predicted_loss, 1e-9, degrees=9, level=0.9, kind="log")
    assert exact.interval[1] - exact.interval[0] < high - low  # without doubt of the loss
    assert exact.interval[1] - exact.interval[0] == pytest.approx(2 * 1.71 * np.hypot(constants, noise), rel=0.05)
    slope = (sigmoid(one.predicted_loss - 1e-4) - sigmoid(one.predicted_loss + 1e-4)) / 2e-4
    assert loss == pytest.approx(slope * one.standard_error, rel=0.3)


def test_intervals_of_accuracy_hold():
    rng, held = np.random.default_rng(7), 0
    for _ in range(60):
        table = ladder()
        params, tokens = np.append(table["N"], 7e9), np.append(table["D"], 4e11)
        loss = (0.55 + 60 * params**-0.3 + 90 * tokens**-0.3) * np.exp(0.005 * rng.normal(size=params.size))
        odds = np.log(sigmoid(loss) / (1 - sigmoid(loss))) + 0.04 * rng.normal(size=params.size)
        accuracy = 1 / (1 + np.exp(-odds))
        rows = {"N": params[:-1], "D": tokens[:-1], "loss": loss[:-1], "acc": accuracy[:-1]}
        low, high = (
            kb.fit(rows, "chinchilla", fix={"chance": 0.25}, **COLUMNS)
            .forecast(num_params_total=7e9, num_tokens=4e11)
            .accuracy.interval
        )
        held += low < accuracy[-1] < high
    assert 0.85 <= held / 60  # 90 %, and the forecast of the loss is protected


def test_an_accuracy_near_its_ceiling_stays_below_one(found):
    low, high = found.forecast(num_params_total=1e12, num_tokens=1e14, level=0.99).accuracy.interval
    assert 0.7 < low < high < 1


def test_a_chain_survives_its_json_and_is_told_of_on_the_command_line(found, tmp_path, capsys):
    np.savetxt(
        tmp_path / "t.csv", np.stack(list(ladder().values()), 1), delimiter=",", header="N,D,loss,acc", comments=""
    )
    names = "num_params_total=N,num_tokens=D,accuracy=acc"
    assert main(["fit", str(tmp_path / "t.csv"), "--columns", names, "--json"]) == 0
    (tmp_path / "f.json").write_text(capsys.readouterr().out)
    line = ["forecast", str(tmp_path / "f.json"), "--num-params", "7e9", "--num-tokens", "4e12"]
    assert main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["accuracy"]
    wanted = found.forecast(num_params_total=7e9, num_tokens=4e12).accuracy
    assert told["interval"] == pytest.approx(wanted.interval, rel=1e-6)
    assert main(line) == 0
    assert f"accuracy {wanted.predicted_accuracy:.4f}, 90%" in capsys.readouterr().out
    rows = found.forecast_table({"N": [7e9, 1e9], "D": [4e12, 2e11]}, num_params_total="N", num_tokens="D")
    assert rows["accuracy_low"][0] == wanted.interval[0]


def test_accuracies_that_are_no_shares_or_missing_are_said_or_left_out():
    table = ladder()
    with pytest.raises(NotPositiveError, match="between 0 and 1"):
        kb.fit({**table, "acc": 100 * table["acc"]}, "chinchilla", **COLUMNS)
    some = {**table, "acc": np.where(np.arange(30) < 10, np.nan, table["acc"])}
    found = kb.fit(some, "chinchilla", **COLUMNS)
    assert (found.fits[0].num_points, found.accuracy.num_points) == (30, 20)
    assert found.accuracy.to_json()["law"] == "accuracy"
