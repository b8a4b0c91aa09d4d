"""The designer against rectangular grids of equal cost, by simulation with the shipped fitter."""

from dataclasses import dataclass

import numpy as np

from kleiber.scaling.designing.design import BoughtRuns, Pool, design_runs, expected_from, make_pool
from kleiber.scaling.designing.rectangle import Grid, best_grid
from kleiber.scaling.designing.simulate import Rehearsal, rehearse
from kleiber.scaling.fitting.known import Known, known_from_law
from kleiber.scaling.fitting.noise import RunNoise
from truth.designs import REFERENCE, Check, optimal_params

BUDGET = 2e14
NUM_RUNS = 48
NOISE = RunNoise(0.005)


@dataclass(frozen=True)
class Contest:
    """What may be run, and what is to be forecast: the compute-optimal run of 10 times the largest."""

    name: str
    num_params: tuple[float, float]
    num_tokens: tuple[float, float]
    max_flops: float

    @property
    def target(self) -> dict[str, float]:
        """The run to forecast."""
        params = float(optimal_params(REFERENCE, 10 * self.max_flops))
        return {"num_params_total": params, "num_tokens": 10 * self.max_flops / 6 / params}

    @property
    def targets(self) -> dict[str, np.ndarray]:
        """The same as columns of one row."""
        return {name: np.array([value]) for name, value in self.target.items()}


WIDE = Contest("sizes 1e3..1e6, tokens 1e5..1e7", (1e3, 1e6), (1e5, 1e7), 6e13)
"""A plain grid of 8 x 6 over all of it costs 1.6e14 and forecasts to 0.6%."""
LADDER = Contest("sizes 1e4..1e7, tokens 1e6..1e8", (1e4, 1e7), (1e6, 1e8), 2e13)
"""Small byte-level models, of which the budget affords a corner; so the corner of the grid is searched for too."""


def known_and_pool(contest: Contest, ladder: int = 20) -> tuple[Known, Pool]:
    """Returns the reference law and the candidates of a contest."""
    sizes, tokens = np.geomspace(*contest.num_params, ladder), np.geomspace(*contest.num_tokens, ladder)
    pool = make_pool(sizes, tokens, contest.max_flops)
    return known_from_law("chinchilla", REFERENCE, NOISE, pool.columns), pool


def plain_grid(contest: Contest, sides: tuple[int, int] = (8, 6)) -> Grid:
    """Returns the grid over the whole of both ranges."""
    known, _ = known_and_pool(contest)
    sizes, tokens = np.geomspace(*contest.num_params, sides[0]), np.geomspace(*contest.num_tokens, sides[1])
    columns = {"num_params_total": np.repeat(sizes, sides[1]), "num_tokens": np.tile(tokens, sides[0])}
    flops = 6 * float(sizes.sum() * tokens.sum())
    return Grid(sizes, tokens, columns, flops, expected_from(known, columns, None, contest.targets))


def searched_grid(contest: Contest) -> Grid:
    """Returns the best of all rectangular grids of 48 runs that the budget affords."""
    known, _ = known_and_pool(contest)
    sizes, tokens = contest.num_params, contest.num_tokens
    found = best_grid(known, contest.targets, BUDGET, NUM_RUNS, sizes, tokens, contest.max_flops)
    assert found is not None
    return found


def design_of_equal_cost(contest: Contest, grid: Grid) -> BoughtRuns:
    """Returns the designed runs for what the grid spent."""
    known, pool = known_and_pool(contest)
    return design_runs(known, pool, contest.targets, grid.flops, max_runs=NUM_RUNS)


def simulated(contest: Contest, columns: dict[str, np.ndarray], count: int, seed: int = 11) -> Rehearsal:
    """Returns how the forecast comes out over simulated sweeps of the reference surface."""
    return rehearse("chinchilla", REFERENCE, columns, NOISE, contest.target, count=count, seed=seed)


def design(count: int = 1000) -> Check:
    """The designer against rectangular grids of equal cost, plain and the best there is."""
    rows, passed = [], True
    for contest, grid, required in (
        (WIDE, plain_grid(WIDE), 0.3),
        (WIDE, searched_grid(WIDE), 0.0),
        (LADDER, searched_grid(LADDER), 0.3),
    ):
        bought = design_of_equal_cost(contest, grid)
        kind = f"{'best' if required == 0.0 or contest is LADDER else 'plain'} grid"
        errors = []
        for name, flops, expected, columns in (
            (f"{kind}, {len(grid.num_params)} x {len(grid.num_tokens)}", grid.flops, grid.expected, grid.columns),
            (f"design, {len(bought)} runs", bought.flops, bought.expected, bought.columns),
        ):
            error = simulated(contest, dict(columns), count).forecast_error
            errors.append(error)
            text = f"{error:.3%} +- {error / np.sqrt(2 * count):.3%}, expected {expected.forecast[0]:.3%}"
            rows.append((f"{contest.name}: {name}", f"{text}, spent {flops:.2e}", ""))
        gain = 1 - errors[1] / errors[0]
        rows.append((f"smaller than by the {kind}", f"{gain:.0%}", f"{required:.0%} or more" if required else "any"))
        passed &= gain >= required
    return Check("design", "designed runs forecast better than a grid of the same cost", passed, rows)
