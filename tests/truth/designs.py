"""Known surfaces, the runs laid out on them, and how a check is stated."""

from dataclasses import dataclass, field

import numpy as np

from kleiber.scaling.fitting.scaled_law import ScaledLaw, make_scaled_law
from kleiber.scaling.forecasting.forecast import Forecast
from kleiber.scaling.laws import get_law

REFERENCE = {"E": 0.80, "A": 25.1, "B": 100.0, "alpha": 0.35, "beta": 0.34}
"""A byte-level surface of small models; standard errors on it are tabled in the design notes."""
SURFACES = {
    "reference": REFERENCE,
    "chinchilla": {"E": 1.6934, "A": 406.4, "B": 410.7, "alpha": 0.3392, "beta": 0.2849},
    "refit": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    "alpha / beta = 3": {"E": 1.7, "A": 2000.0, "B": 30.0, "alpha": 0.465, "beta": 0.155},
    "alpha / beta = 1/3": {"E": 1.7, "A": 30.0, "B": 2000.0, "alpha": 0.155, "beta": 0.465},
    "small and steep": {"E": 1.0, "A": 490.0, "B": 745.0, "alpha": 0.73, "beta": 0.57},
}


@dataclass(frozen=True)
class Check:
    """One acceptance check."""

    id: str
    claim: str
    passed: bool
    rows: list[tuple[str, str, str]]
    """(what, measured, required)."""
    rates: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    """For the figure: label to (rate, Monte Carlo error, lowest, highest allowed)."""
    board: list[tuple[str, ...]] = field(default_factory=list)
    """A wider table below, its heading first."""
    words: str = ""
    """What the rows mean, where that is not plain."""
    shares: dict[str, list[float]] = field(default_factory=dict)
    """For a figure of its own: by rule, the share inside at each distance."""


def grid(num_sizes: int = 8, num_tokens: int = 5) -> dict[str, np.ndarray]:
    """Returns a rectangular grid of parameters 1e5..1e8 and tokens 1e7..1e10."""
    return {
        "num_params_total": np.repeat(np.geomspace(1e5, 1e8, num_sizes), num_tokens),
        "num_tokens": np.tile(np.geomspace(1e7, 1e10, num_tokens), num_sizes),
    }


def isoflop(
    constants: dict[str, float],
    width: float = 8.0,
    num_budgets: int = 5,
    num_sizes: int = 8,
    flops: tuple[float, float] = (1e14, 1e18),
) -> dict[str, np.ndarray]:
    """Returns isoFLOP slices centred on the surface's own optimum, `width` times either way, FLOPs = 6 N D."""
    budgets = np.repeat(np.geomspace(*flops, num_budgets), num_sizes)
    best = optimal_params(constants, budgets)
    params = best * np.tile(np.geomspace(1 / width, width, num_sizes), num_budgets)
    return {"num_params_total": params, "num_tokens": budgets / 6 / params, "flops": budgets}


def optimal_params(constants: dict[str, float], flops: np.ndarray | float) -> np.ndarray:
    """Returns the compute-optimal parameters of an additive surface (Hoffmann et al. 2022, equation 4)."""
    alpha, beta = constants["alpha"], constants["beta"]
    ratio = alpha * constants["A"] / (beta * constants["B"])
    return ratio ** (1 / (alpha + beta)) * (np.asarray(flops) / 6) ** (beta / (alpha + beta))


def trunks(num_sizes: int = 6, num_branches: int = 8) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns runs where each size is one trunk with many branches, and the trunk of each."""
    sizes = np.geomspace(1e5, 1e7, num_sizes)
    columns = {
        "num_params_total": np.repeat(sizes, num_branches),
        "num_tokens": np.tile(np.geomspace(1e6, 1e9, num_branches), num_sizes),
    }
    return columns, np.repeat([f"trunk-{index}" for index in range(num_sizes)], num_branches)


def ladder(constants: dict[str, float], num_sizes: int = 12, tokens_per_param: float = 20.0) -> dict[str, np.ndarray]:
    """Returns a ladder of sizes that all have the same tokens per parameter."""
    params = np.geomspace(1e5, 1e8, num_sizes)
    return {"num_params_total": params, "num_tokens": tokens_per_param * params}


def surface(columns: dict[str, np.ndarray], law: str = "chinchilla") -> ScaledLaw:
    """Returns a law on the runs."""
    return make_scaled_law(get_law(law), columns)


def frontier_point(columns: dict[str, np.ndarray], times: float = 10.0) -> dict[str, float]:
    """Returns a run on the diagonal of the runs with `times` the compute of the largest."""
    largest = int(np.argmax(columns["num_params_total"] * columns["num_tokens"]))
    factor = times**0.5
    return {name: float(columns[name][largest] * factor) for name in ("num_params_total", "num_tokens")}


def inside(found: Forecast, loss: float) -> bool:
    """Returns whether the interval holds a loss."""
    return found.interval[0] <= loss <= found.interval[1]
