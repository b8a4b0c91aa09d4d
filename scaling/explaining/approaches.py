"""Hoffmann's three approaches side by side, each with its bias measured on the very runs at hand.

The bias of an approach depends on the surface and on where the runs are. So each approach is also applied to the
noise-free losses of the fitted law at the same runs: what it then gets wrong is its bias.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kleiber.scaling.fitting.result import FitResult, without_nan
from kleiber.scaling.forecasting.allocation import Demand, allocate

SAME_BUDGET = 1.05
"""Runs whose compute agrees within this factor belong to one isoFLOP slice."""
LABELS = {"envelope": "1 envelope", "parabola": "2 parabola", "akima": "2 Akima", "parametric": "3 parametric"}
KNOWN = {
    "envelope": "sees only the sizes that were run, so the first and last size pull the exponent",
    "parabola": "the loss is no parabola in log N: intercepts shift with the width of the slice (arXiv:2603.22339)",
    "akima": "no shape is assumed, so noise moves each minimum more than a parabola's",
    "parametric": "as good as the form of the law",
}
Losses = np.ndarray


@dataclass(frozen=True)
class Approach:
    """Compute-optimal parameters N = scale C^a by one approach; None where the runs do not allow it."""

    name: str
    a: float | None
    num_params: float | None
    """Advised for the budget asked about."""
    bias: float | None
    """Of that advice, on noise-free losses of the fitted law at the same runs: advised over best, less 1."""
    remark: str
    """Its known weakness, or why it could not be used."""


@dataclass(frozen=True)
class Approaches:
    """What each approach advises for one budget."""

    flops: float
    approaches: tuple[Approach, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {**without_nan(asdict(self)), "withheld": None}

    def report(self) -> str:
        """Returns the comparison as text."""
        lines = [
            f"best parameters for {self.flops:.3g} FLOPs by each approach (bias: on noise-free losses of this fit)"
        ]
        for each in self.approaches:
            if each.num_params is None:
                lines.append(f"  {LABELS[each.name]:<13}{each.remark}")
                continue
            a = "withheld" if each.a is None else f"{each.a:.4f}"
            lines.append(
                f"  {LABELS[each.name]:<13}{each.num_params:>10.4g}  a {a}  bias {each.bias:+.2%}  ({each.remark})"
            )
        return "\n".join(lines)


def compare_approaches(fit: FitResult, flops: float) -> Approaches:
    """Returns approach 1 (envelope), 2 (parabola), 2 with Akima minima, and 3 (the fit itself) for one budget. Raises
    ValueError if the law has no compute-optimal size.

    Args:
      fit: approach 3, of a law of parameters and tokens with an interior optimum.
      flops: budget to advise for, at 6 FLOPs a parameter and token.
    """
    product = flops / 6
    best = allocate(fit, Demand(flops)).num_params_total
    params, tokens = fit.points["num_params_total"], fit.points["num_tokens"]
    clean = fit.predict(fit.points)
    methods: dict[str, Callable[[Losses], tuple[np.ndarray, np.ndarray]]] = {
        "envelope": lambda loss: envelope(params, tokens, loss),
        "parabola": lambda loss: slice_minima(params, tokens, loss, parabola, 3),
        "akima": lambda loss: slice_minima(params, tokens, loss, _akima, 5),
    }
    out = []
    for name, method in methods.items():
        try:
            a, advised = advised_size(*method(fit.points["loss"]), product)
            _, noiseless = advised_size(*method(clean), product)
            out.append(Approach(name, a, advised, noiseless / best - 1, KNOWN[name]))
        except ValueError as reason:
            out.append(Approach(name, None, None, None, f"not possible: {reason}"))
    own = fit.optimum.get("a")
    return Approaches(flops, (*out, Approach("parametric", own, best, 0.0, KNOWN["parametric"])))


def advised_size(log_product: np.ndarray, log_params: np.ndarray, product: float) -> tuple[float, float]:
    """Returns the exponent a of a power law through best sizes, and the size it advises for a product N D."""
    slope, level = np.polyfit(log_product, log_params, 1)
    return float(slope), float(np.exp(level + slope * np.log(product)))


def envelope(params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns log(N D) and the log of the size with the lowest loss there, along the envelope (approach 1). Raises
    ValueError with fewer than 3 sizes of 2 token counts, or an envelope of one size.

    The curve of each size is interpolated in log loss (in the loss itself if it may be negative) over log tokens,
    never extrapolated.
    """
    curves, height = [], np.log(loss) if loss.min() > 0 else loss
    for size in np.unique(params):
        rows = np.flatnonzero(params == size)
        rows = rows[np.argsort(tokens[rows])]
        if len(rows) >= 2:
            curves.append((np.log(size), np.log(size * tokens[rows]), height[rows]))
    if len(curves) < 3:
        raise ValueError(f"{len(curves)} sizes have two token counts or more; an envelope needs 3.")
    axis = np.linspace(min(x[0] for _, x, _ in curves), max(x[-1] for _, x, _ in curves), 1500)
    values = np.stack([np.interp(axis, x, y, left=np.inf, right=np.inf) for _, x, y in curves])
    sizes = np.array([size for size, _, _ in curves])[values.argmin(axis=0)]
    # Where only the smallest or only the largest size has runs, it wins without a contest.
    contested = np.isfinite(values).sum(axis=0) >= 2
    if not contested.any() or len(np.unique(sizes[contested])) < 2:
        raise ValueError("one size is the best wherever two can be compared; add sizes.")
    return axis[contested], sizes[contested]


def slice_minima(
    params: np.ndarray,
    tokens: np.ndarray,
    loss: np.ndarray,
    lowest: Callable[[np.ndarray, np.ndarray], float],
    least: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns log(N D) and the log of the best size of each isoFLOP slice (approach 2) of runs [runs]; `lowest` gives
    the best log size of one slice of at least `least` sizes, from log sizes and losses. Raises ValueError with fewer
    than 2 slices, or a slice without a lowest point."""
    order = np.argsort(params * tokens)
    log_product = np.log(params * tokens)[order]
    breaks = np.flatnonzero(np.diff(log_product) > np.log(SAME_BUDGET)) + 1
    found = []
    for rows in np.split(order, breaks):
        x = np.log(params[rows])
        if len(np.unique(x)) >= least:
            found.append((float(np.log(params[rows] * tokens[rows]).mean()), lowest(x, loss[rows])))
    if len(found) < 2:
        raise ValueError(f"{len(found)} budgets with {least} sizes or more; isoFLOP slices need 2.")
    products, best = np.array(found).T
    return products, best


def parabola(x: np.ndarray, loss: np.ndarray) -> float:
    """Returns the lowest point of a parabola through losses over log sizes.

    Known bias: the loss is no parabola in log N, so the lowest point is shifted by a constant that depends on the
    exponents and the width of the slice; the exponents of the power law survive, its intercepts do not.

    Source: Hoffmann et al. 2022, section 3.2; the bias: Czech 2026, arXiv:2603.22339.
    """
    curvature, slope, _ = np.polyfit(x - x.mean(), loss, 2)
    if curvature <= 0:
        raise ValueError("a slice has no lowest point; widen it.")
    return float(x.mean() - slope / (2 * curvature))


def _akima(x: np.ndarray, loss: np.ndarray) -> float:
    """Returns the minimum of an Akima spline, as Porian et al. 2024 (arXiv:2406.19146) use it."""
    from scipy.interpolate import Akima1DInterpolator  # half a second, and few tables have slices

    sizes = np.unique(x)
    means = np.array([loss[x == size].mean() for size in sizes])
    axis = np.linspace(sizes[0], sizes[-1], 4001)
    best = int(Akima1DInterpolator(sizes, means)(axis).argmin())
    if best in (0, len(axis) - 1):
        raise ValueError("a slice is lowest at its end; widen it.")
    return float(axis[best])
