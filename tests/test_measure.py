"""Raw losses in any unit and of either sign, and the objectives that public tables are known to reach."""

from pathlib import Path

import numpy as np
import pytest

import kleiber as kb
from kleiber.scaling.explaining.approaches import compare_approaches
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import baseline_losses
from kleiber.scaling.table.table import from_columns, read_table
from kleiber.scaling.table.warned import NotANumberError, NotPositiveError

TABLES = Path(__file__).parent / "data" / "tables"


def runs(unit: float = 1.0, below: float = 0.0) -> dict[str, np.ndarray]:
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 2e9, 6), np.geomspace(2e9, 4e10, 8)))
    noise = 0.01 * np.random.default_rng(0).normal(size=params.size)
    loss = 1.8 + 480 * params**-0.35 + 2100 * tokens**-0.37 + noise - below
    return {"num_params_total": params, "num_tokens": tokens, "loss": unit * loss}


def fitted(columns: dict[str, np.ndarray], law: str = "chinchilla", **options: object) -> FitResult:
    return fit_law(from_columns(columns), law, residuals="raw", **options)


@pytest.mark.parametrize("law", ["chinchilla", "generalised_mean", "saturating"])
@pytest.mark.parametrize("below", [0.0, 3.5])
def test_raw_losses_in_another_unit_have_the_same_law_in_that_unit(law: str, below: float):
    plain, large = fitted(runs(1.0, below), law), fitted(runs(1e5, below), law)
    assert large.objective == pytest.approx(1e10 * plain.objective, rel=1e-8)
    assert large.starts.agreeing == plain.starts.agreeing
    for name in ("alpha", "beta"):
        assert large.parameters[name].estimate == pytest.approx(plain.parameters[name].estimate, rel=1e-5)
    assert large.parameters["E"].interval_95 == pytest.approx(np.array(plain.parameters["E"].interval_95) * 1e5, 1e-4)
    again = FitResult.from_json(large.to_json())
    new = {"num_params_total": [1e10], "num_tokens": [1e12]}
    assert again.predict(new)[0] == pytest.approx(1e5 * plain.predict(new)[0], rel=1e-6)


def test_constants_fixed_in_another_unit_are_in_that_unit():
    free = fitted(runs(1e5))
    held = fitted(runs(1e5), fixed={"E": free.parameters["E"].estimate, "A": free.parameters["A"].estimate})
    assert held.objective == pytest.approx(free.objective, rel=1e-8)


def test_simple_rules_and_approaches_take_losses_below_zero():
    found = fitted(runs(1.0, 5.0))
    rules = baseline_losses(found, 1e10, 1e12)
    assert np.isfinite(list(rules.values())).all() and max(rules.values()) < 0
    assert all(each.remark for each in compare_approaches(found, 1e22).approaches)


@pytest.mark.parametrize(("column", "value"), [("num_tokens", 0.0), ("loss", np.nan)])
def test_no_advice_leaves_out_every_row(column: str, value: float):
    with pytest.raises(ValueError) as refused:
        kb.fit({**runs(), column: np.full(48, value)}, "chinchilla")
    assert "--drop" not in str(refused.value) and "every row" in str(refused.value)


def test_losses_that_are_no_shares_are_not_advised_away():
    with pytest.raises(NotPositiveError, match="between 0 and 1") as refused:
        kb.fit(runs(), "chinchilla", residuals="logit")
    assert "--drop" not in str(refused.value)


def test_a_formula_over_an_empty_column_says_that_it_is_empty():
    with pytest.raises(NotANumberError, match="column 'extra' is empty"):
        read_table({**runs(), "extra": [None] * 48}, {"loss": "loss + extra"})


@pytest.mark.parametrize(
    ("name", "delta", "least"),
    [
        ("hot", 1e-3, 1.9816129e-3),
        ("hot", 1e-4, 2.0750520e-4),
        ("cool_end", 1e-3, 1.9640864e-3),
        ("cool_end", 1e-4, 2.0477910e-4),
        ("lr_ablation_hot", 1e-3, 1.9728624e-3),
        ("lr_ablation_hot", 1e-4, 2.0584210e-4),
    ],
)
def test_hubers_objective_on_gemstones_is_the_lowest_known(name: str, delta: float, least: float):
    table = read_table(TABLES / f"gemstones_{name}.csv", {"num_params_total": "N", "num_tokens": "D"})
    found = fit_law(table, "chinchilla", objective="huber", delta=delta)
    assert found.objective <= least * (1 + 5e-8)  # as rounded as it is written down
