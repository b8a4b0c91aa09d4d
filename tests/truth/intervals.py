"""T2 to T6 and T9: intervals that hold, noise that is shared, designs that cannot tell, forms told apart."""

import warnings

import numpy as np

from kleiber.scaling.designing.coverage import Coverage, Truth, coverages, refitted
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.refit import fit_many, simulate_losses
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import REJECTED, combined_forecast
from kleiber.scaling.law import Values
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import RunTable, from_columns
from kleiber.scaling.table.warned import SharedTrunkWarning, TableWarning
from truth.designs import (
    REFERENCE,
    Check,
    frontier_point,
    grid,
    inside,
    isoflop,
    ladder,
    surface,
    trunks,
)

SHOWN = ("alpha", "beta", "a", "E", "loss", "new run")


def _table(columns: Values, log_loss: np.ndarray, **labels: np.ndarray) -> RunTable:
    return from_columns({**columns, "loss": np.exp(log_loss), **labels}, "simulated")


def _rows(prefix: str, found: dict[str, Coverage], low: float, high: float) -> list[tuple[str, str, str]]:
    return [
        (
            f"{prefix}, {name}",
            f"{each.rate:.3f} +- {each.monte_carlo_error:.3f} (bias {each.bias:+.2f} sd, sd/se {each.spread:.2f}, "
            f"{each.median_degrees:.0f} degrees)",
            f"{low} to {high}",
        )
        for name, each in found.items()
        if name in SHOWN
    ]


def _rates(
    prefix: str, found: dict[str, Coverage], low: float, high: float
) -> dict[str, tuple[float, float, float, float]]:
    return {
        f"{prefix}: {name}": (each.rate, each.monte_carlo_error, low, high)
        for name, each in found.items()
        if name in SHOWN
    }


def _held(found: dict[str, Coverage], low: float, high: float) -> bool:
    """Returns whether every rate is allowed, one Monte Carlo error of grace at either end."""
    return all(
        low - each.monte_carlo_error <= each.rate <= high + each.monte_carlo_error
        for name, each in found.items()
        if name in SHOWN
    )


def independent(columns: dict[str, np.ndarray], count: int, sigma: float = 0.01, seed: int = 1) -> dict[str, Coverage]:
    """Returns the coverage of the default intervals for independent noise on the reference surface."""
    scaled = surface(columns)
    z = scaled.working(REFERENCE)
    losses = simulate_losses(scaled, z, count, seed, sigma=sigma)
    refits = fit_many(scaled, losses, z[None])
    return coverages(Truth(scaled, REFERENCE, frontier_point(columns), sigma), refitted(refits, losses))


def shared(count: int, tau: float = 0.005, sigma: float = 0.003, seed: int = 2) -> dict[str, dict[str, Coverage]]:
    """Returns the coverage with noise shared along trunks: by GLS, and by pretending independence."""
    columns, trunk = trunks()
    scaled = surface(columns)
    z = scaled.working(REFERENCE)
    losses = simulate_losses(scaled, z, count, seed, sigma=sigma, tau=tau, cluster=trunk)
    truth = Truth(scaled, REFERENCE, frontier_point(columns), float(np.hypot(sigma, tau)))
    gls = fit_many(scaled, losses, z[None], cluster=trunk)
    naive = fit_many(scaled, losses, z[None])
    return {
        "gls": coverages(truth, refitted(gls, losses, trunk)),
        "naive": coverages(truth, refitted(naive, losses)),
    }


def t2(count: int = 500) -> Check:
    """40 runs at 1% noise: 95% intervals of every constant and of the loss at 10 times the compute."""
    rows: list[tuple[str, str, str]] = []
    rates: dict[str, tuple[float, float, float, float]] = {}
    passed = True
    for name, columns in (("grid", grid()), ("isoFLOP", isoflop(REFERENCE))):
        found = independent(columns, count)
        rows += _rows(name, found, 0.925, 0.975)
        rates |= _rates(f"T2 {name}", found, 0.925, 0.975)
        passed &= _held(found, 0.925, 0.975)
        passed &= all(abs(found[key].spread - 1) <= 0.1 for key in ("alpha", "beta", "a", "E"))
        passed &= all(abs(found[key].bias) <= 0.2 for key in ("alpha", "beta", "a", "E"))
    return Check("T2", "95% intervals hold 95% of the time with 40 runs", passed, rows, rates)


def t3(count: int = 500) -> Check:
    """20 runs."""
    columns = {name: values[::2] for name, values in grid().items()}
    found = independent(columns, count)
    passed = _held(found, 0.92, 0.98)
    return Check(
        "T3", "and with 20 runs", passed, _rows("grid", found, 0.92, 0.98), _rates("T3 20 runs", found, 0.92, 0.98)
    )


def outliers(count: int, objective: str, seed: int = 4) -> dict[str, Coverage]:
    """Returns coverage when 2 of 40 runs come out 10% too high, through `fit_law` itself."""
    columns = grid()
    scaled = surface(columns)
    losses = simulate_losses(scaled, scaled.working(REFERENCE), count, seed, sigma=0.01)
    rng = np.random.default_rng(seed + 1000)
    for row in losses:
        row[rng.choice(len(row), 2, replace=False)] += np.log(1.1)
    truth = Truth(scaled, REFERENCE, frontier_point(columns), 0.01)
    fits = [fit_law(_table(columns, row), "chinchilla", objective=objective) for row in losses]
    return coverages(truth, [(fit.z, fit.uncertainty) for fit in fits])


def t4(count: int = 300) -> Check:
    """Outliers."""
    rows: list[tuple[str, str, str]] = []
    rates: dict[str, tuple[float, float, float, float]] = {}
    passed = True
    plain = outliers(count, "gaussian")
    for objective in ("huber", "student"):
        found = {name: each for name, each in outliers(count, objective).items() if name != "new run"}
        rows += _rows(objective, found, 0.88, 1.0)
        rates |= _rates(f"T4 {objective}", found, 0.88, 1.0)
        for name in ("alpha", "beta", "a", "E"):
            passed &= found[name].rate >= 0.88 - found[name].monte_carlo_error and abs(found[name].bias) <= 0.5
        wider = plain["alpha"].deviation / found["alpha"].deviation
        rows.append((f"error of alpha by least squares over {objective}", f"{wider:.2f}", "at least 1.3: it fails"))
        passed &= wider >= 1.3
    shift = plain["loss"].bias * plain["loss"].deviation
    rows.append(("bias of the loss at 10 times by least squares", f"{shift:+.2%}", "shown"))
    return Check("T4", "5% of runs 10% too high do not spoil a robust fit", passed, rows, rates)


def t5(count: int = 500) -> Check:
    """Noise shared along trunks."""
    found = shared(count)
    columns, trunk = trunks()
    scaled = surface(columns)
    losses = simulate_losses(scaled, scaled.working(REFERENCE), 1, 5, sigma=0.003, tau=0.005, cluster=trunk)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_law(_table(columns, losses[0], trunk_id=trunk), "chinchilla")
    warned = any(issubclass(each.category, SharedTrunkWarning) for each in caught)
    rows = _rows("GLS", found["gls"], 0.92, 0.98) + [
        (what, measured, "for comparison") for what, measured, _ in _rows("as if independent", found["naive"], 0, 1)
    ]
    rows.append(("fitting as if independent warns", str(warned), "True"))
    return Check(
        "T5",
        "intervals hold when branches share a trunk (tau 0.5%, sigma 0.3%, 6 trunks of 8)",
        warned and _held(found["gls"], 0.92, 0.98),
        rows,
        _rates("T5 GLS", found["gls"], 0.92, 0.98) | _rates("T5 naive", found["naive"], 0.92, 0.98),
    )


def fixed_ratio(count: int, seed: int = 6) -> tuple[float, float, float]:
    """Returns how often the alarm fires, the exponents are withheld, and a 90% interval holds a run at 10 times."""
    columns = ladder(REFERENCE)
    scaled = surface(columns)
    z = scaled.working(REFERENCE)
    losses = simulate_losses(scaled, z, count, seed, sigma=0.01)
    point = frontier_point(columns)
    truth = Truth(scaled, REFERENCE, point, 0.01)
    rng = np.random.default_rng(seed)
    alarms, withheld, held = 0, 0, 0
    for row in losses:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TableWarning)
            fit = fit_law(_table(columns, row), "chinchilla")
        alarms += any(alarm.startswith("constant-ratio") for alarm in fit.identifiability.alarms)
        withheld += all(fit.parameters[name].withheld for name in ("alpha", "beta")) and fit.optimum["a"] is None
        found = combined_forecast([fit], point["num_params_total"], point["num_tokens"])
        held += inside(found, float(np.exp(truth.log_loss() + 0.01 * rng.standard_normal())))
    return alarms / count, withheld / count, held / count


def t6(count: int = 300) -> Check:
    """A ladder of fixed tokens per parameter."""
    alarm, withheld, held = fixed_ratio(count)
    error = (0.09 / count) ** 0.5
    rows = [
        ("identifiability alarm fires", f"{alarm:.3f}", "1"),
        ("exponents withheld", f"{withheld:.3f}", "1"),
        ("90% interval holds a frontier run at 10 times", f"{held:.3f} +- {error:.3f}", "at least 0.87"),
    ]
    passed = alarm == withheld == 1 and held >= 0.87
    return Check("T6", "a fixed-ratio ladder is refused, its frontier forecast is not", passed, rows)


def curvature(count: int, seed: int = 9) -> dict[str, float]:
    """Returns coverage of q, size of the test of q = 1, and how often the wrong form is rejected, each way."""
    columns = grid()
    additive, product = surface(columns), surface(columns, "product")
    product_constants = {"E": 0.8, "K": 60.0, "alpha": 0.2, "beta": 0.2}
    out = {"coverage of q": 0.0, "size of the test q = 1": 0.0}
    losses = simulate_losses(additive, additive.working(REFERENCE), count, seed, sigma=0.01)
    scaled = surface(columns, "generalised_mean")
    constants = {**REFERENCE, "q": 1.0}
    refits = fit_many(scaled, losses, scaled.working(constants)[None])
    found = coverages(Truth(scaled, constants, frontier_point(columns), 0.01), refitted(refits, losses))
    out["coverage of q"] = found["q"].rate
    out["size of the test q = 1"] = 1 - found["q"].rate
    out["product rejected when additive is true"] = _share_rejected(columns, losses, "chinchilla", "product")
    losses = simulate_losses(product, product.working(product_constants), count, seed + 1, sigma=0.01)
    out["additive rejected when product is true"] = _share_rejected(columns, losses, "product", "chinchilla")
    return out


def _share_rejected(columns: dict[str, np.ndarray], losses: np.ndarray, true: str, wrong: str) -> float:
    rejected = 0
    for row in losses:
        right, other = (fit_law(_table(columns, row), get_law(name)) for name in (true, wrong))
        rejected += _rejects(right, other)
    return rejected / len(losses)


def _rejects(right: FitResult, wrong: FitResult) -> bool:
    return wrong.aicc - right.aicc > REJECTED


def t9(count: int = 300) -> Check:
    """The curvature q."""
    found = curvature(count)
    error = (0.95 * 0.05 / count) ** 0.5
    rows = [(name, f"{value:.3f} +- {error:.3f}", "") for name, value in found.items()]
    limits = ["0.925 to 0.975", "0.03 to 0.07", "at least 0.99", "at least 0.99"]
    rows = [(what, measured, limit) for (what, measured, _), limit in zip(rows, limits, strict=True)]
    names = list(found)
    passed = 0.925 - error <= found[names[0]] <= 0.975 + error and min(found[name] for name in names[2:]) >= 0.99
    rates = {"T9: q": (found[names[0]], error, 0.925, 0.975)}
    return Check("T9", "sum and product are told apart, and q is covered", passed, rows, rates)
