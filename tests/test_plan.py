"""Claims about the errors a plan expects: they are those of the laws asked for."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import least_squares
from studies import trunk

from kleiber.experiments.experiment import AssumedLaw, Experiment, Target
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.experiments.planning.plan import make_plan
from kleiber.experiments.planning.speed import SpeedEstimate, speed_key
from kleiber.train.command import Command

LENGTHS = (50_000, 100_000, 200_000, 400_000)
LADDER = tuple(trunk(d, tokens=LENGTHS) for d in (16, 32, 48, 96))
TARGETS = (Target("larger", trunk(128, tokens=(800_000,))),)
OWN = """
def own(num_params_total, num_tokens, *, E, A, alpha, B, beta):
    return E + A / num_params_total**alpha + B / num_tokens**beta
"""


def expected(*laws: str) -> dict:
    return make_plan(Experiment("e", "?", LADDER, TARGETS, laws=laws), 1).expected


def test_a_law_of_ones_own_that_is_chinchilla_is_expected_to_err_as_chinchilla(tmp_path):
    (tmp_path / "my.py").write_text(OWN)
    name = f"{tmp_path}/my.py:own"
    found = expected("chinchilla", name)["laws"]
    assert found[name]["constants"] == pytest.approx(found["chinchilla"]["constants"], rel=1e-3)
    assert found[name]["forecasts"] == pytest.approx(found["chinchilla"]["forecasts"], rel=1e-3)


def kaplan(z: np.ndarray, size: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    a, b, n, d = np.exp(z)
    return b * np.log((n / size) ** (a / b) + d / tokens)


def test_errors_of_another_law_are_those_about_the_constants_closest_to_the_assumed_ones():
    found = expected("kaplan", "chinchilla")
    cells, assumed = trunk_cells(Experiment("e", "?", LADDER, laws=()), "fit"), AssumedLaw()
    points = [point for cell in cells for point in cell.planned.values()]
    size, tokens = (np.array([getattr(p, n) for p in points], float) for n in ("num_params_total", "num_tokens"))
    truth = assumed.E + assumed.A / size**assumed.alpha + assumed.B / tokens**assumed.beta
    starts = np.log([[0.1, 0.1, 1e8, 1e8], [0.05, 0.1, 1e10, 1e10]])  # from some others it runs off to a huge exponent
    fits = [least_squares(lambda z: kaplan(z, size, tokens) - np.log(truth), s, xtol=1e-14, ftol=1e-14) for s in starts]
    z = min(fits, key=lambda each: each.cost).x
    steps = 1e-5 * np.eye(4)
    slopes = np.stack([(kaplan(z + e, size, tokens) - kaplan(z - e, size, tokens)) / 2e-5 for e in steps], 1)
    same = np.array([[p.trunk_id == q.trunk_id for q in points] for p in points])
    noise = assumed.point_noise**2 * np.eye(len(points)) + assumed.trunk_noise**2 * same
    errors = np.sqrt(np.diag(np.linalg.inv(slopes.T @ np.linalg.solve(noise, slopes)))) * np.exp(z)
    constants = found["laws"]["kaplan"]["constants"]
    assert [constants[name] for name in ("alpha_N", "alpha_D", "N_c", "D_c")] == pytest.approx(errors, rel=0.02)
    assert found["exponents"] == {name: constants[name] for name in ("alpha_N", "alpha_D")}  # of the first law
    assert found["forecasts"] == found["laws"]["kaplan"]["forecasts"] != found["laws"]["chinchilla"]["forecasts"]


def test_of_a_law_with_columns_that_the_assumed_one_does_not_know_no_error_is_expected():
    assert expected("experts") == {}
    found = expected("experts", "chinchilla")
    assert "num_experts_effective" in found["laws"]["experts"]["reason"]
    assert found["forecasts"] == expected("chinchilla")["forecasts"]


def test_seconds_of_a_program_that_has_never_run_rest_on_a_guess_whatever_else_was_measured():
    ours, theirs = LADDER[0], replace(LADDER[0], command=Command("{python} train.py {folder}"))
    known = SpeedEstimate(1e9, {speed_key(ours): 5000.0})
    assert known.source([ours]) == "speeds measured here before"
    assert known.source(LADDER) == "some speeds guessed from this machine's matmul rate"
    assert known.source([ours, theirs]).endswith("a program's own speed is not known until it has run once")
    assert SpeedEstimate(1e9, {speed_key(theirs): 9.0}).source([theirs]) == "speeds measured here before"
