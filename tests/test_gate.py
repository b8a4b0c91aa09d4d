"""The gate of an experiment: each of its claims kept, and each broken by itself."""

from dataclasses import replace

import pytest

from kleiber.experiments.experiment import Experiment, Gate
from kleiber.experiments.gate import gate_verdict
from kleiber.model.config import ModelConfig
from kleiber.train.config import OptimizerConfig, TrainConfig

TRUNK = TrainConfig(ModelConfig(8, 1, 1), OptimizerConfig(0.01), (1000,))
GATE = Gate(max_error=0.015, max_interval=1 / 32, max_residual_rms=0.006)
KEPT = {
    "target": "large",
    "status": "done",
    "reason": "",
    "signed_error": -0.014,
    "predicted_loss": 2.0,
    "interval": (1.9375, 2.05),  # 1/16 below and less above: a half-width of 1/32 of the forecast, exactly
    "inside": True,
}


def verdicts(rms=0.006, gate=GATE, laws=("chinchilla",), **outcome):
    experiment = Experiment("gated", "?", (TRUNK,), laws=laws, gate=gate)
    return gate_verdict(experiment, {"residual_rms": rms, "targets": [KEPT | outcome]})


def broken(**changes):
    return [v["claim"] for v in verdicts(**changes) if not v["passed"]]


def test_a_result_at_its_limits_keeps_every_claim_and_is_shown_with_them():
    found = [(v["value"], v["limit"], v["passed"]) for v in verdicts()]
    assert found == [(0.006, 0.006, True), (0.014, 0.015, True), (1 / 32, 1 / 32, True), (True, True, True)]
    assert gate_verdict(Experiment("gated", "?", (TRUNK,)), {"residual_rms": 0.0})[0]["passed"]  # no targets
    assert verdicts(laws=()) == []


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"rms": 0.0061}, "residual rms 0.61%, at most 0.60%"),
        ({"signed_error": -0.016}, "large: error -1.60%, at most 1.5%"),
        ({"signed_error": 0.016}, "large: error +1.60%, at most 1.5%"),
        ({"interval": (1.93, 2.05)}, "large: interval +-3.50%, at most 3.1%"),
        ({"interval": (1.9375, 2.08)}, "large: interval +-4.00%, at most 3.1%"),
        ({"inside": False}, "large: outcome outside its interval"),
        ({"status": "failed", "reason": "out of memory"}, "large did not finish: out of memory"),
        ({"gate": replace(GATE, max_residual_rms=0.005)}, "residual rms 0.60%, at most 0.50%"),
        ({"gate": replace(GATE, max_error=0.01)}, "large: error -1.40%, at most 1.0%"),
        ({"gate": replace(GATE, max_interval=0.02)}, "large: interval +-3.12%, at most 2.0%"),
    ],
)
def test_each_claim_breaks_by_itself(change, claim):
    assert broken(**change) == [claim]


def test_an_outcome_outside_its_interval_passes_where_the_experiment_does_not_ask():
    assert broken(inside=False, gate=replace(GATE, requires_inside=False)) == []
