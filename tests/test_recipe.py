"""Recipes: numbers in force follow their powers, a planted rule is found again, and what is no recipe is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from studies import measured, trunk
from test_studies import told

from kleiber.experiments.answers.study_runs import study_runs
from kleiber.experiments.answers.tuning import tuning_of
from kleiber.experiments.cli import main
from kleiber.experiments.config_file import to_data
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.train.config import OptimizerConfig
from kleiber.train.recipe import Power, Recipe

RATES = tuple(0.002 * 2**half for half in (0, 1, 2, 3, 4, 5))
TOKENS = (131_072, 524_288)


def planted(config, num_tokens) -> float:
    """The best rate: as batch^.5, tokens^-.25, and as width^.125 beside the parametrization's rule."""
    return (
        0.008
        * (config.batch_size / 4) ** 0.5
        * (num_tokens / TOKENS[0]) ** -0.25
        * (config.model.d_model / 32) ** 0.125
    )


def sweep_of(trunks, off=lambda config: 1.0) -> tuple[Experiment, list[dict]]:
    """What a sweep over such trunks would have measured: a bowl of bend .02, two seeds 1e-4 apart."""
    experiment = Experiment("rates", "How does the best learning rate go?", tuple(trunks), laws=())

    def loss(cell, index) -> float:
        away = math.log(
            cell.config.optimizer.learning_rate
            / (off(cell.config) * planted(cell.config, cell.config.num_tokens[index]))
        )
        return 2.0 * math.exp(0.02 * away**2) + 1e-4 * (-1) ** cell.config.seed

    return experiment, measured(experiment, loss)


def tuned(*sweeps, **off):
    found = []
    for trunks in sweeps:
        experiment, records = sweep_of(trunks, **off)
        runs = study_runs(to_data(experiment), records, Path())
        found.append((runs, {cell.trunk_id: cell.config for cell in trunk_cells(experiment, "fit")}))
    return tuning_of(found, "learning_rate")


def over(**levels):
    """Trunks over all rates and two seeds at each of the levels of one field."""
    ((name, values),) = levels.items()
    return [trunk(rate=r, seed=s, **{name: value}) for value in values for r in RATES for s in (0, 1)]


def test_a_planted_rule_is_found_with_its_intervals_and_gives_the_best_rate_everywhere():
    found = tuned(over(batch_size=(2, 8)), over(tokens=(TOKENS,)), over(d_model=(16, 64)))
    powers = {each.power.cause: each for each in found.measured}
    planted_powers = {"batch_tokens": 0.5, "num_tokens": -0.25, "d_model": 0.125}
    assert powers.keys() == planted_powers.keys()
    for cause, exponent in planted_powers.items():
        assert powers[cause].power.exponent == pytest.approx(exponent, abs=1e-6)
        low, high = powers[cause].interval
        assert low < exponent < high and high - low < 0.1
    assert max(lost for *_, lost in found.regrets) < 1e-9 and len(found.regrets) == 6
    there = trunk(128, tokens=(8 * TOKENS[0],), batch_size=32)
    assert found.recipe(there).optimizer.learning_rate == pytest.approx(planted(there, 8 * TOKENS[0]))
    assert "not measured, kept as it is: how it follows num_layers" in str(found)


def test_what_a_recipe_loses_is_told_where_the_best_is_off_its_power():
    batches = (2, 8, 32)  # a straight power between the ends: the middle, of twice its rate, is lost
    found = tuned(over(batch_size=batches), off=lambda config: 2.0 if config.batch_size == 8 else 1.0)
    assert [where for where, *_ in found.regrets] == ["batch_size 2", "batch_size 8", "batch_size 32"]
    lost = [lost for *_, lost in found.regrets]
    assert lost == pytest.approx([0, math.exp(0.02 * math.log(2) ** 2) - 1, 0], abs=1e-9)
    assert "at batch_size 8: the recipe says 0.0113, the best is 0.0226: it loses 0.97% of the loss" in str(found)


def test_of_an_exponent_that_two_sweeps_measure_the_recipe_takes_the_one_of_the_widest_range():
    found = tuned(over(batch_size=(2, 32)), over(batch_size=(2, 8)), off=lambda c: 2.0 if c.batch_size == 8 else 1.0)
    assert len(found.measured) == 2 and "of the widest range" in str(found)
    (power,) = found.recipe.powers
    assert power.exponent == pytest.approx(0.5, abs=1e-6)  # of 2 to 32; 2 to 8 alone has 1, for its 8 is off


def test_width_that_changes_with_tokens_is_not_taken_for_its_cause():
    trunks = [
        t
        for d, n in zip((16, 64), TOKENS, strict=True)
        for t in [trunk(d, r, (n,), seed=s) for r in RATES for s in (0, 1)]
    ]
    found = tuned(trunks)
    assert not found.measured and "d_model changes with num_tokens" in str(found)


@pytest.mark.parametrize(
    ("quantity", "cause", "exponent", "by_hand"),
    [
        ("learning_rate", "batch_tokens", 0.5, 0.008 * 2),
        ("learning_rate", "num_tokens", -0.3, 0.008 * 16**-0.3),
        ("weight_decay", "d_model", -1.0, 0.1 / 3),
        ("epsilon", "num_layers", -2.0, 1e-8 / 4),
        ("beta2", "batch_tokens", 1.0, 0.99**4),  # as long a memory in tokens
    ],
)
def test_a_number_in_force_is_its_reference_times_the_power_of_its_cause(quantity, cause, exponent, by_hand):
    recipe = Recipe.tuned_at(trunk(batch_size=4), (Power(quantity, cause, exponent),))
    there = trunk(96, tokens=(TOKENS[0], 16 * TOKENS[0]), batch_size=16, shape={"num_layers": 4})
    found = recipe(replace(there, optimizer=OptimizerConfig(0.5)))
    assert getattr(found.optimizer, quantity) == pytest.approx(by_hand)
    assert replace(found.optimizer, **{quantity: getattr(recipe.optimizer, quantity)}) == recipe.optimizer
    assert replace(found, optimizer=there.optimizer) == there  # nothing else has changed


def test_a_recipe_is_the_same_again_from_its_file_and_what_is_none_is_refused(tmp_path):
    recipe = Recipe.tuned_at(trunk(), "delphi")
    recipe.write(tmp_path / "recipe.json")
    assert Recipe.read(tmp_path / "recipe.json") == recipe and recipe.source == "delphi"
    data = json.loads((tmp_path / "recipe.json").read_text())
    wrong = {"powers": "no", "optimizer": {"learning_rate": -1}, "num_tokens": 0}
    for name, value in wrong.items():
        (tmp_path / "wrong.json").write_text(
            json.dumps({k: v for k, v in data.items() if k not in ("sealed", "seal")} | {name: value})
        )
        with pytest.raises(ValueError, match="wrong.json is no recipe"):
            Recipe.read(tmp_path / "wrong.json")
    (tmp_path / "wrong.json").write_text(json.dumps(data | {"num_tokens": 7}))
    with pytest.raises(ValueError, match="differs from its seal"):
        Recipe.read(tmp_path / "wrong.json")
    with pytest.raises(ValueError, match="no recipe 'chinchila', expected one of delphi"):
        Recipe.tuned_at(trunk(), "chinchila")
    twice = (Power("learning_rate", "num_tokens", 0.1), Power("learning_rate", "num_tokens", 0.2))
    with pytest.raises(ValueError, match="learning_rate by num_tokens twice"):
        Recipe.tuned_at(trunk(), twice)


def test_the_command_prints_the_exponents_and_writes_the_recipe(tmp_path, monkeypatch, capsys):
    told(tmp_path / "rates", *sweep_of(over(batch_size=(2, 8))), monkeypatch, capsys)
    assert main(["tune", str(tmp_path / "rates"), "--to", str(tmp_path / "recipe.json")]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("learning_rate ~ batch_tokens^0.50 [0.50, 0.50]   2 to 8, 1 pair of bowls")
        and "at batch_size 2: the recipe says 0.00566" in said
    )
    assert Recipe.read(tmp_path / "recipe.json").optimizer.learning_rate == pytest.approx(
        planted(trunk(batch_size=2), TOKENS[0])
    )
    assert main(["tune", str(tmp_path / "rates"), "--quantity", "epsilon"]) == 2
    assert "epsilon does not vary in this sweep" in capsys.readouterr().err
