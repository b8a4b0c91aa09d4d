"""Earlier outcomes of the same recipe: they narrow or widen the next intervals, by as much as they were off."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t
from test_protection import csv  # noqa: F401  the table of a fit

import kleiber as kb
from kleiber.experiments.cli import main
from kleiber.experiments.configs import miniature
from kleiber.experiments.planning.cells import records_digest
from kleiber.experiments.sweeping.law_stage import fit_digest
from kleiber.scaling.forecasting.ledger import Ledger, LedgerError
from kleiber.scaling.forecasting.track_record import read_track_record

SAID = {"num_params_total": 1000, "num_tokens": 10**6, "flops": 6e9, "compute_ratio": 4.0, "law": "chinchilla"}


def ledger_of(path, *outcomes: float, **more) -> str:
    """Writes forecasts of 2 +- .1 at 90 % with six degrees of freedom, and what they came to."""
    ledger = Ledger(path)
    for number, loss in enumerate(outcomes):
        said = {"predicted_loss": 2.0, "interval": (1.9, 2.1), "degrees_of_freedom": 6.0, **more}
        ledger.register(target=f"t{number}", **SAID, **said)
        ledger.outcome(f"t{number}", f"r{number}", loss)
    return str(path)


def test_errors_count_in_standard_errors_said_and_four_more_stand_for_the_prior(tmp_path):
    found = read_track_record([ledger_of(tmp_path / "a", 2.05, 1.8)])
    error = t.ppf(0.95, 6) * np.array([0.5, 2.0])  # half of the half-width, and twice it
    assert found.squares == pytest.approx(error**2)
    assert found.factor == pytest.approx(math.sqrt((4 + (error**2).sum()) / 6))


def test_an_interval_that_was_narrowed_is_judged_by_what_its_fit_alone_said(tmp_path):
    plain = read_track_record([ledger_of(tmp_path / "a", 2.05)])
    narrowed = read_track_record([ledger_of(tmp_path / "b", 2.05, past={"factor": 0.5, "outcomes": 3})])
    assert narrowed.squares[0] == pytest.approx(plain.squares[0] / 4)


def test_a_ledger_named_twice_counts_once_and_late_or_withdrawn_forecasts_never(tmp_path):
    path = ledger_of(tmp_path / "a", 2.0, 2.1)
    ledger = Ledger(path)
    ledger.register(
        target="late", **SAID, predicted_loss=2.0, interval=(1.9, 2.1), begun_at="2026-01-01T00:00:00+00:00"
    )
    ledger.outcome("late", "r8", 3.0)
    ledger.register(target="gone", **SAID, predicted_loss=2.0, interval=(1.9, 2.1))
    ledger.withdraw("gone", "its run changed")
    assert len(read_track_record([path, path]).squares) == 2


@pytest.mark.parametrize(("make", "said"), [
    (lambda path: str(path), "no ledger at"),
    (lambda path: Ledger(path).register(target="t", **SAID, predicted_loss=2.0, interval=(1.9, 2.1)) and str(path),
     "holds no outcome"),
])  # fmt: skip
def test_a_ledger_that_teaches_nothing_is_refused_before_anything_is_trained(make, said, tmp_path, capsys):
    with pytest.raises(LedgerError, match=said):
        read_track_record([make(tmp_path / "a")])
    config = tmp_path / "mine.py"
    config.write_text(
        "from dataclasses import replace\nfrom kleiber.experiments.configs.miniature import experiment as plain\n"
        f"def experiment():\n    return replace(plain(), past_ledgers=({str(tmp_path / 'a')!r},))\n"
    )
    assert main(["plan", str(config)]) == 2 and said in capsys.readouterr().err


def test_a_good_record_narrows_forecasts_a_bad_one_widens_them_and_both_are_told(csv, tmp_path, capsys):  # noqa: F811
    fit, point = str(tmp_path / "fit.json"), ("--num-params", "3e10", "--num-tokens", "3e12")
    kb.fit(csv).save(fit)
    good, bad = ledger_of(tmp_path / "good", *[2.002] * 8), ledger_of(tmp_path / "bad", *[2.3] * 8)

    def forecast(*words: str) -> dict:
        assert main(["forecast", fit, *point, *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    plain, narrow, wide = forecast(), forecast("--past-ledger", good), forecast("--past-ledger", bad)
    assert narrow["predicted_loss"] == plain["predicted_loss"] == wide["predicted_loss"]
    square = (t.ppf(0.95, 6) * 0.02) ** 2
    assert narrow["past_factor"] == pytest.approx(math.sqrt((4 + 8 * square) / 12)) and narrow["past_outcomes"] == 8
    assert narrow["rolling_factor"] == pytest.approx(plain["rolling_factor"] * narrow["past_factor"])
    assert narrow["degrees_of_freedom"] == plain["degrees_of_freedom"] + 8
    said, other = kb.read_fit(fit).learning_from(good), kb.read_fit(fit).learning_from(bad)
    assert "and 8 earlier outcomes" in said.forecast(num_params_total=3e10, num_tokens=3e12).report()
    assert wide["interval"][1] - wide["interval"][0] > 1.5 * (plain["interval"][1] - plain["interval"][0])
    assert other.forecast(num_params_total=3e10, num_tokens=3e12).interval == pytest.approx(wide["interval"])
    with pytest.raises(ValueError, match="has heard of 8 earlier outcomes already"):
        said.learning_from(bad)


def test_what_a_fit_heard_is_kept_with_it_and_stands_in_the_next_ledger(csv, tmp_path, capsys):  # noqa: F811
    good, fit, next_one = ledger_of(tmp_path / "good", *[2.01] * 4), tmp_path / "fit.json", tmp_path / "next.jsonl"
    assert main(["fit", str(csv), "--no-in-depth", "--past-ledger", good, "--json"]) == 0
    fit.write_text(capsys.readouterr().out)
    line = ["forecast", str(fit), "--num-params", "3e10", "--num-tokens", "3e12"]
    assert main([*line, "--register", str(next_one), "--name", "far", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (entry,) = Ledger(next_one).entries()
    assert said["past_outcomes"] == 4
    assert entry["past"] == {"factor": said["past_factor"], "outcomes": 4}
    assert entry["degrees_of_freedom"] == said["degrees_of_freedom"]


def test_a_fit_without_past_ledgers_has_the_digest_it_had():
    plain = miniature.experiment()
    made_of = json.dumps([plain.laws, records_digest([])])  # as it was before there were any
    assert fit_digest(plain, []) == hashlib.sha256(made_of.encode()).hexdigest()[:16]
    assert fit_digest(replace(plain, past_ledgers=("a",)), []) != fit_digest(plain, [])
