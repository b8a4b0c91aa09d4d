"""Local exponents of each factor with intervals, whether they are constant, and what one factor is worth in another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.estimates import stepped, stepped_interval
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import STEP

WIDTH = 1e-4
"""Of the working coordinates, for derivatives of what is reported."""
LARGEST_RATE = 1e6
"""Exchange rates are searched between its inverse and this."""
Point = Mapping[str, float]


@dataclass(frozen=True)
class Elasticity:
    """e = -d ln(L - E) / d ln X at a point: 1% more of X takes e % off the reducible loss."""

    factor: str
    point: Point
    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Constancy:
    """Whether a factor has one exponent over the range of the runs, the other factors at their geometric means."""

    factor: str
    range: tuple[float, float]
    """Smallest and largest value among the runs."""
    ends: tuple[float, float]
    """Elasticity there."""
    difference: float
    interval: tuple[float, float]
    """Of the difference."""
    verdict: str
    """"constant within x", "rejected, because ...", or "assumed" where the law leaves it no choice."""


@dataclass(frozen=True)
class ExchangeRate:
    """How many times as much of one factor has the same effect as a change of another."""

    rate: float
    interval: tuple[float, float]
    level: float
    text: str


def elasticities(fit: FitResult, points: Sequence[Point] | None = None, level: float = 0.95) -> list[Elasticity]:
    """Returns the local exponent of every factor at every point (`reference_points` if left out), with intervals of
    probability `level`. Without a constant E the loss itself counts as reducible."""
    out = []
    for point in reference_points(fit) if points is None else points:
        columns = _columns(fit, [point])
        for factor in factors_of(fit):
            if not point[factor] > 0:
                continue  # a share of zero has no logarithm
            out.append(Elasticity(factor, dict(point), *_contrast(fit, columns, factor, (1.0,), level)))
    return out


def factors_of(fit: FitResult) -> list[str]:
    """Returns the variables of a law that are no mere settings."""
    return [each.name for each in fit.scaled.law.variables if not each.setting]


def reference_points(fit: FitResult) -> list[dict[str, float]]:
    """Returns the geometric mean of the fitted runs, between points a quarter and three quarters up every range.

    The range is one of logarithms, but for a variable that may be zero.
    """
    points = []
    for share in (0.25, 0.5, 0.75):
        point = {}
        for variable in fit.scaled.law.variables:
            name, values = variable.name, fit.points[variable.name]
            if variable.may_be_zero:
                point[name] = float(values.min() + share * np.ptp(values))
                continue
            logs = np.log(values)
            middle = logs.mean() if share == 0.5 else logs.min() + share * np.ptp(logs)
            point[name] = float(np.exp(middle))
        points.append(point)
    return points


def constancy(fit: FitResult, level: float = 0.95) -> list[Constancy]:
    """Returns, for each factor, whether its exponent is constant over the range of the runs.

    The verdict is within the fitted law: choose the law first (`explaining.select`), and fit one whose exponents vary.
    The generalised mean holds both the sum and the product.
    """
    law, middle = fit.scaled.law, reference_points(fit)[1]
    out = []
    for factor in factors_of(fit):
        values = fit.points[factor]
        low, high = float(values.min()), float(values.max())
        if not low > 0:
            continue
        columns = _columns(fit, [{**middle, factor: low}, {**middle, factor: high}])
        first, last = (float(each) for each in _elasticity(fit, fit.z[None], columns, factor)[0])
        value, reach = _contrast(fit, columns, factor, (-1.0, 1.0), level)
        verdict = _verdict(law.id, factor, (low, high), (first, last), reach)
        out.append(Constancy(factor, (low, high), (first, last), value, reach, verdict))
    return out


def _verdict(
    law: str, factor: str, span: tuple[float, float], ends: tuple[float, float], reach: tuple[float, float]
) -> str:
    size = max(abs(reach[0]), abs(reach[1]))
    if size < 1e-9:
        return f"assumed: law {law} has one exponent of {factor} whatever the runs say"
    if reach[0] > 0 or reach[1] < 0:
        verb = "rises" if ends[1] > ends[0] else "falls"
        return (
            f"rejected, because it {verb} from {ends[0]:.3g} to {ends[1]:.3g} between {factor} {span[0]:.3g} "
            f"and {span[1]:.3g}"
        )
    return f"constant within {size:.2g} over {factor} {span[0]:.3g} to {span[1]:.3g}"


def interaction(fit: FitResult, first: str, second: str, level: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Returns rho = d^2 ln(L - E) / d ln X d ln Y at the geometric mean of the runs; 0 under the product law."""
    middle = reference_points(fit)[1]
    step = 1e-3
    ends = _columns(fit, [{**middle, second: middle[second] * float(np.exp(sign * step))} for sign in (-1, 1)])

    def rho(z: np.ndarray) -> np.ndarray:
        found = _elasticity(fit, z, ends, first)
        return -(found[:, 1] - found[:, 0]) / (2 * step)

    return _with_interval(fit, rho, level)


def exchange_rate(
    fit: FitResult, change: Point, at: Point, of: str = "num_params_total", level: float = 0.95
) -> ExchangeRate:
    """Returns how many times as much of one factor gives the loss that a change of others gives. Raises ValueError for
    a factor that the law does not have, or if no amount of `of` gives that loss.

    Args:
      fit: of a law with all these factors.
      change: the factors' new values, as {"weight_bits": 4}.
      at: every factor's value before the change, as {"num_params_total": 1e8, ..., "weight_bits": 16}.
      of: the factor to express it in: a rate of 0.78 says the change is worth 0.78 of it.
      level: probability of the interval.
    """
    names = fit.scaled.law.variable_names
    unknown = [name for name in (*change, of) if name not in names]
    if unknown or of in change:
        raise ValueError(f"law {fit.law} has the factors {', '.join(names)}; cannot express {dict(change)} in {of!r}.")
    columns = _columns(fit, [at])
    changed = _columns(fit, [{**at, **change}])
    reach = float(np.log(LARGEST_RATE))

    def log_rate(z: np.ndarray) -> np.ndarray:
        wanted = fit.scaled.log_loss(z, changed)[:, 0]
        low, high = np.full(len(z), -reach), np.full(len(z), reach)

        def excess(log_factor: np.ndarray) -> np.ndarray:
            moved = {name: np.broadcast_to(values, (len(z), 1)) for name, values in columns.items()}
            moved[of] = moved[of] * np.exp(log_factor)[:, None]
            return fit.scaled.log_loss(z, moved)[:, 0] - wanted

        falling = excess(high) < excess(low)
        sign = np.where(falling, 1.0, -1.0)
        if not np.all((sign * excess(low) >= 0) & (sign * excess(high) <= 0)):
            raise ValueError(
                f"no amount of {of} gives the loss of {dict(change)} at this point; express it in another."
            )
        for _ in range(60):
            middle = 0.5 * (low + high)
            short = sign * excess(middle) > 0
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return 0.5 * (low + high)

    value, (below, above) = _with_interval(fit, log_rate, level)
    rate, bounds = float(np.exp(value)), (float(np.exp(below)), float(np.exp(above)))
    what = ", ".join(f"{name} {new:g} instead of {at[name]:g}" for name, new in change.items())
    text = f"{what} is worth {rate:.3g} of {of} ({level:.0%} [{bounds[0]:.3g}, {bounds[1]:.3g}])"
    return ExchangeRate(rate, bounds, level, text)


def _columns(fit: FitResult, points: list[Point]) -> dict[str, np.ndarray]:
    names = fit.scaled.law.variable_names
    lost = [name for point in points for name in names if name not in point]
    if lost:
        raise ValueError(f"a point of law {fit.law} needs a value for {', '.join(sorted(set(lost)))}.")
    return {name: np.array([float(point[name]) for point in points]) for name in names}


def _elasticity(fit: FitResult, z: np.ndarray, columns: Mapping[str, np.ndarray], factor: str) -> np.ndarray:
    """Returns the elasticity [b, points] at working points z [b, P], by a complex step in the factor."""
    scaled = fit.scaled
    x: dict[str, np.ndarray] = dict(scaled.centred(columns))
    x[factor] = x[factor] * (1 + 1j * STEP)
    constants = scaled.constants(z)
    loss = scaled.law.loss(constants, x)
    name = scaled.law.floor
    floor = scaled.reported(z)[name][:, None] if name in scaled.law.names else 0.0
    return -(loss.imag / STEP) / (loss.real - floor)


def _contrast(
    fit: FitResult, columns: Mapping[str, np.ndarray], factor: str, weights: Sequence[float], level: float
) -> tuple[float, tuple[float, float]]:
    """Returns the weighted sum of a factor's elasticities at some points, with its interval."""
    return _with_interval(fit, lambda z: (_elasticity(fit, z, columns, factor) * weights).sum(axis=1), level)


def _with_interval(
    fit: FitResult, quantity: Callable[[np.ndarray], np.ndarray], level: float
) -> tuple[float, tuple[float, float]]:
    """Returns a quantity (z [b, P] -> [b]) of the working point and its t interval by the delta method."""
    found = quantity(stepped(fit.z, WIDTH))
    return float(found[0]), stepped_interval(found, WIDTH, fit.uncertainty, level)
