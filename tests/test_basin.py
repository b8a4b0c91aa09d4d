"""The best learning rate and batch from a table of runs: planted optima come back, and their intervals hold."""

import json

import numpy as np
import pytest

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.scaling.explaining.parabola import fit_parabola
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.forecasting.best_setting import best_settings
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import from_columns

SCALED = {"E": 1.8, "A": 50.0, "B": 200.0, "alpha": 0.3, "beta": 0.28, "h": 0.04, "K": 0.3, "a": -0.35, "b": 0.08}
BATCH = {**SCALED, "K": 0.06, "g": 0.3, "j": 0.02, "M": 0.02, "m": 0.4}


def axes(*values: object) -> list[np.ndarray]:
    return [np.ravel(each) for each in np.meshgrid(*values, indexing="ij")]


def rates(law: str, constants: dict[str, float], noise: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns a grid of sizes, tokens and rates (and batches), with its losses."""
    params, tokens, rate, *batch = axes(
        np.geomspace(3e6, 3e8, 4),
        np.geomspace(3e8, 1e10, 3),
        np.geomspace(5e-4, 1.6e-2, 5),
        *([np.geomspace(32, 512, 4)] if law == "basin_batch" else []),
    )
    columns = {"num_params_total": params, "num_tokens": tokens, "learning_rate": rate}
    columns |= {"batch_size": batch[0]} if batch else {}
    loss = get_law(law).at(constants, columns) * np.exp(noise * np.random.default_rng(seed).normal(size=params.size))
    return {**columns, "loss": loss}


def test_one_sweep_over_rates_gives_its_vertex_with_an_interval():
    rate = np.geomspace(1e-3, 1.6e-2, 5)
    loss = 2.5 * (1 + 0.02 * np.log(rate / 3.7e-3) ** 2) + 0.002 * np.sin(np.arange(5.0) ** 2)
    found = kb.fit({"lr": rate, "loss": loss}, "basin", learning_rate="lr").constants["best"]
    parabola = fit_parabola(rate, loss)
    assert found.estimate == pytest.approx(parabola.vertex, rel=2e-3)
    assert found.interval_95[0] < parabola.vertex < found.interval_95[1] < 2 * parabola.vertex


def test_intervals_of_the_best_rate_at_an_unseen_size_hold():
    run, held = {"num_params_total": 3e9, "num_tokens": 6e10}, 0
    truth = SCALED["K"] * 3e9 ** SCALED["a"] * 6e10 ** SCALED["b"]
    for seed in range(40):
        fit = fit_law(from_columns(rates("basin_scaled", SCALED, 0.004, seed)), "basin_scaled", starts=4)
        (best,) = best_settings(fit, ["learning_rate"], run, 0.9)
        z = fit.scaled.reported(fit.z)
        assert best.value == pytest.approx(
            float(z["K"] * 3e9 ** z["a"] * 6e10 ** z["b"]), rel=1e-6
        )  # as the law has it
        held += best.interval[0] < truth < best.interval[1]
    assert 31 <= held <= 40  # 90 %, within two errors


def test_rate_and_batch_are_found_together():
    found = kb.fit(rates("basin_batch", BATCH, 0.0), "basin_batch")
    rate, batch = found.best("learning_rate", "batch_size", num_params_total=1e9, num_tokens=2e10)
    wanted = BATCH["M"] * 2e10 ** BATCH["m"]
    assert batch.value == pytest.approx(wanted, rel=1e-4)
    at_best = BATCH["K"] * 1e9 ** BATCH["a"] * 2e10 ** BATCH["b"] * wanted ** BATCH["g"]
    assert rate.value == pytest.approx(at_best, rel=1e-4)
    (alone,) = found.best("learning_rate", num_params_total=1e9, num_tokens=2e10, batch_size=64)
    assert alone.value == pytest.approx(at_best * (64 / wanted) ** BATCH["g"], rel=1e-4)


def test_any_law_with_a_minimum_has_a_best_level():
    def mine(width, *, E, A, B):
        return E + A / width + B * width

    width = np.geomspace(1, 100, 12)
    found = kb.fit({"width": width, "loss": 2 + 5 / width + 0.05 * width}, mine)
    assert found.best("width")[0].value == pytest.approx(10, rel=1e-4)  # sqrt(A / B)


def test_a_best_level_that_is_not_there_is_said():
    found = kb.fit(rates("basin_scaled", SCALED, 0.004), "basin_scaled")
    with pytest.raises(ValueError, match="no best num_tokens within 4 times .* every larger one"):
        found.best("num_tokens", num_params_total=1e9, learning_rate=1e-3)
    with pytest.raises(ValueError, match="has no 'rate'"):
        found.best("rate", num_params_total=1e9, num_tokens=1e10)
    with pytest.raises(ValueError, match="also needs a value for num_tokens"):
        found.best("learning_rate", num_params_total=1e9)


def test_the_command_sets_the_best_rate_and_forecasts_there(tmp_path, capsys):
    found = kb.fit(rates("basin_scaled", SCALED, 0.004), "basin_scaled")
    found.save(tmp_path / "f.json")
    line = [
        "forecast",
        str(tmp_path / "f.json"),
        "--num-params",
        "1B",
        "--num-tokens",
        "2e10",
        "--best",
        "learning_rate",
    ]
    assert main(line) == 0
    assert "best learning_rate 0.00" in capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (best,) = found.best("learning_rate", num_params_total=1e9, num_tokens=2e10)
    assert told["best"][0]["value"] == pytest.approx(best.value, rel=1e-6)
    there = found.forecast(num_params_total=1e9, num_tokens=2e10, learning_rate=best.value)
    assert told["predicted_loss"] == pytest.approx(there.predicted_loss, rel=1e-9)
    assert main([*line[:-2], "--best", "batch"]) == 2
