"""How long fits take, beside scipy's L-BFGS-B from the same starts on the same runs, in turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from kleiber.scaling.fitting.bootstrap import parametric_bootstrap
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import ScaledLaw, make_scaled_law
from kleiber.scaling.fitting.starts import start_points
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import RunTable, read_table
from truth.designs import Check

RUNS = Path(__file__).parents[2] / "tests" / "data" / "datablations" / "runs.csv"
COLUMNS = {"loss": "val_loss", "num_params_total": "params", "num_tokens": "tokens"}
TABLES = {"41 single-pass runs": "epochs > 1", "all 296 runs": None}
NUM_STARTS = 4500
"""Of the grid that the fit of Hoffmann et al. 2022 (appendix D.2) is usually repeated with."""
NUM_REFITS = 1000
DELTA = 1e-3
SHORT_GOES = 5
"""Goes a round of a job of milliseconds."""
LIMITS = {
    "one fit by squares, 16 starts": 0.05,
    "one fit by Huber, 16 starts": 0.05,
    "one fit by Huber, 4,500 starts": 2.0,
    "1,000 bootstrap refits by squares": 15.0,
}


@dataclass(frozen=True)
class Task:
    """One job, by us and by scipy."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[int], float]
    """Index of a start (or of a refit) -> the objective it ends at."""
    num_theirs: int
    how: str
    """How scipy was called."""


def scipy_minimum(
    scaled: ScaledLaw, log_loss: np.ndarray, start: np.ndarray, huber: bool, numeric: bool = False
) -> float:
    """Returns the objective where L-BFGS-B ends, from one start [5] in the coordinates of the scaled law.

    The sum of the three terms is taken by log-sum-exp and the gradient is exact, or, with `numeric`, scipy's own
    differences, as in most published fits.
    """
    columns = scaled.centred()
    log_params, log_tokens = np.log(columns["num_params_total"]), np.log(columns["num_tokens"])

    def value(p: np.ndarray) -> tuple[float, np.ndarray]:
        log_E, log_A, log_B, alpha, beta = p
        parts = np.stack([log_A - alpha * log_params, log_B - beta * log_tokens, np.full_like(log_loss, log_E)])
        total = np.logaddexp.reduce(parts)
        share = np.exp(parts - total)
        residual = total - log_loss
        psi = np.clip(residual, -DELTA, DELTA) if huber else residual
        cost = float(np.sum(psi * (residual - 0.5 * psi)))
        gradient = [share[2], share[0], share[1], -share[0] * log_params, -share[1] * log_tokens]
        return cost, np.array([float(psi @ each) for each in gradient])

    start = np.array([np.log(max(start[0], 1e-3)), start[1], start[2], np.exp(start[3]), np.exp(start[4])])
    if numeric:
        return float(minimize(lambda p: value(p)[0], start, method="L-BFGS-B").fun)
    return float(minimize(value, start, jac=True, method="L-BFGS-B").fun)


def tasks(table: RunTable) -> list[Task]:
    """Returns what is timed on one table."""
    law = get_law("chinchilla")
    scaled = make_scaled_law(law, {name: table[name] for name in law.variable_names})
    log_loss = np.log(table["loss"])
    few, many = (start_points(scaled, table["loss"], count)[0] for count in (16, NUM_STARTS))
    fit = fit_law(table, law)
    rng = np.random.default_rng(0)
    clean = log_loss - fit.residuals
    refits = clean + fit.noise.sigma * rng.standard_normal((NUM_REFITS, len(clean)))

    def ours(starts: int = 16) -> FitResult:
        return fit_law(table, law, objective="huber", delta=DELTA, starts=starts)

    def theirs(points: np.ndarray, huber: bool = True, numeric: bool = False) -> Callable[[int], float]:
        return lambda index: scipy_minimum(scaled, log_loss, points[index], huber, numeric)

    def refit(index: int) -> float:
        return scipy_minimum(scaled, refits[index], fit.z, False)

    squares, huber, all_starts, bootstrap = LIMITS
    exact = "L-BFGS-B, exact gradient"
    return [
        Task(squares, lambda: fit_law(table, law), theirs(few, huber=False), len(few), exact),
        Task(huber, ours, theirs(few), len(few), exact),
        Task(huber, ours, theirs(few, numeric=True), len(few), "L-BFGS-B, its own differences"),
        Task(all_starts, lambda: ours(NUM_STARTS), theirs(many), NUM_STARTS, exact),
        Task(bootstrap, lambda: parametric_bootstrap(fit, NUM_REFITS), refit, NUM_REFITS, f"{exact}, from the fit"),
    ]


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Returns wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(task: Task, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns our and scipy's (wall, CPU) seconds for the whole task, and the lowest objective that scipy found.

    In each of `count` rounds we do all of it and scipy its share, so that a busy moment falls on both; ours is the
    median, scipy's the sum.
    """
    task.ours()
    ours, theirs, lowest = [], np.zeros(2), np.inf
    for part in range(count):
        share = range(part, task.num_theirs, count)
        ours += [seconds(task.ours) for _ in range(SHORT_GOES if task.num_theirs <= 16 else 1)]
        begin = time.perf_counter(), time.process_time()
        lowest = min(lowest, *(task.theirs(index) for index in share))
        theirs += time.perf_counter() - begin[0], time.process_time() - begin[1]
    return np.median(ours, axis=0), theirs, float(lowest)


def speed(count: int = 5) -> Check:
    """Seconds and ratios; ours and scipy's take turns in `count` rounds."""
    rows, passed = [], True
    for label, drop in TABLES.items():
        for task in tasks(read_table(RUNS, COLUMNS, drop)):
            (wall, cpu), (their_wall, their_cpu), lowest = measure(task, count)
            text = f"{wall:.3g} s ({cpu:.3g} s CPU); scipy {their_wall:.3g} s ({their_cpu:.3g} s CPU, {task.how})"
            rows.append((f"{label}: {task.name}", f"{text}, {their_cpu / cpu:.0f} times", f"{LIMITS[task.name]} s CPU"))
            passed &= bool(cpu <= LIMITS[task.name])
            if isinstance(fit := task.ours(), FitResult) and "differences" not in task.how:
                rows.append((f"{label}: lowest objective", f"{fit.objective:.8g}; scipy {lowest:.8g}", "as low"))
                passed &= fit.objective <= lowest * (1 + 1e-7)
    return Check("speed", "fits are fast, and how many times faster than scipy on the same runs", passed, rows)
