"""How to spend one budget: parameters and tokens for training alone, with inference to come, or with little data."""

from dataclasses import dataclass, field

import numpy as np

from kleiber.scaling.fitting.estimates import stepped, stepped_interval
from kleiber.scaling.fitting.known import Known
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import STEP
from kleiber.scaling.fitting.uncertainty import Uncertainty
from kleiber.scaling.forecasting.derived import COUNTS, DERIVED, with_derived
from kleiber.scaling.forecasting.flops_rule import FlopsRule, plain_rule
from kleiber.scaling.forecasting.remedies import what_to_train, withheld_exponents

REACH = 16.0
"""Sizes are searched this far either way from the square root of the budget, in natural logarithms."""
GRID = 257
WIDTH = 1e-5
"""Of the working coordinates, for derivatives of the optimum."""
INFERENCE_FLOPS = 2.0
"""FLOPs per parameter and token served: one multiplication and one addition a weight."""


@dataclass(frozen=True)
class AllocationKind:
    """One way to choose the size and tokens of a run; it needs a fitted law and fits no constant itself."""

    id: str
    title: str
    formula: str
    citation: str
    command: str


ALLOCATIONS = (
    AllocationKind(
        "compute_optimal",
        "least loss for a training budget",
        "min L(N, D) with c N D = C; c is 6, another number, or as the runs counted",
        "Hoffmann et al. 2022, arXiv:2203.15556",
        "kleiber forecast fit.json --flops C",
    ),
    AllocationKind(
        "inference_aware",
        "least loss when the budget also pays for the tokens served, or fewest FLOPs for a loss",
        "min L(N, D) with 6 N D + 2 N D_served = C; or min 6 N D + 2 N D_served with L(N, D) = l",
        "Sardana et al. 2024, arXiv:2401.00448",
        "kleiber forecast fit.json --flops C --inference-tokens D_served, or --reach LOSS instead of --flops",
    ),
    AllocationKind(
        "data_constrained",
        "least loss when the distinct tokens run out, through a law that knows repeats",
        "min L(N, D, U) with 6 N D = C and U distinct tokens",
        "Muennighoff et al. 2023, arXiv:2305.16264",
        "kleiber forecast fit.json --flops C --unique-tokens U",
    ),
)


@dataclass(frozen=True)
class Allocation:
    """The best size and token count; intervals are None for a law taken to be true."""

    kind: str
    """compute-optimal, data-constrained, inference-aware, or cheapest for a loss."""
    num_params_total: float
    num_params_interval: tuple[float, float] | None
    num_tokens: float
    num_tokens_interval: tuple[float, float] | None
    level: float
    predicted_loss: float
    training_flops: float
    inference_flops: float
    epochs: float
    """Passes over the unique tokens; 1 where data does not run out."""


@dataclass(frozen=True)
class Demand:
    """What the budget is for."""

    flops: float | None = None
    """Budget, inference included; or None to reach `loss` as cheaply as possible."""
    loss: float | None = None
    inference_tokens: float = 0.0
    """Tokens the model will serve over its life."""
    num_unique_tokens: float | None = None
    """All the distinct training tokens there are."""
    rule: FlopsRule = field(default_factory=plain_rule)
    """What training costs."""

    def __post_init__(self) -> None:
        if (self.flops is None) == (self.loss is None):
            raise ValueError("say either a budget in FLOPs or a loss to reach, not both.")
        wrong = [each for each in (self.flops, self.loss, self.num_unique_tokens) if each is not None and each <= 0]
        if wrong or self.inference_tokens < 0:
            raise ValueError(f"budgets, losses and counts must be positive, got {self}.")

    @property
    def kind(self) -> str:
        """What it is called."""
        if self.loss is not None:
            return "cheapest for a loss"
        parts = ["inference-aware"] * (self.inference_tokens > 0)
        parts += ["data-constrained"] * (self.num_unique_tokens is not None)
        return ", ".join(parts) or "compute-optimal"


def allocate(source: FitResult | Known, demand: Demand, level: float = 0.9) -> Allocation:
    """Returns the parameters and tokens that serve a demand best, with intervals from the fit's uncertainty.

    Args:
      source: a fit, or a law with constants taken to be true.
      demand: see `Demand`.
      level: probability of the intervals.

    Raises:
      ValueError: if the law lacks a variable that the demand needs, the fit withholds its exponents, or no size
        inside the range searched is best.

    Source: compute-optimal, Hoffmann et al. 2022; with inference, Sardana et al. 2024, arXiv:2401.00448; with
    repeated data, Muennighoff et al. 2023, arXiv:2305.16264, through the law's own effective tokens.
    """
    scaled, z = source.scaled, source.z
    uncertainty = source.uncertainty if isinstance(source, FitResult) else None
    _check(source, demand)
    points = z[None] if uncertainty is None else stepped(z, WIDTH)
    log_params = _best_size(source, demand, points)
    log_tokens = _log_tokens(source, demand, points, log_params[:, None])[:, 0]
    params, tokens = float(np.exp(log_params[0])), float(np.exp(log_tokens[0]))
    columns = _columns(source, demand, log_params[:1, None], log_tokens[:1, None])
    unique = demand.num_unique_tokens
    return Allocation(
        kind=demand.kind,
        num_params_total=params,
        num_params_interval=_interval(log_params, uncertainty, level),
        num_tokens=tokens,
        num_tokens_interval=_interval(log_tokens, uncertainty, level),
        level=level,
        predicted_loss=float(scaled.measure.back(scaled.log_loss(z[None], columns)[0, 0])),
        training_flops=demand.rule.flops(params, tokens),
        inference_flops=INFERENCE_FLOPS * params * demand.inference_tokens,
        epochs=max(1.0, tokens / unique) if unique else 1.0,
    )


def _check(source: FitResult | Known, demand: Demand) -> None:
    law = source.scaled.law
    names = set(law.variable_names)
    if not COUNTS <= names and not names <= {*COUNTS, *DERIVED}:
        raise ValueError(f"law {law.id} needs parameters and tokens to plan with; it has {', '.join(sorted(names))}.")
    if demand.num_unique_tokens is not None and "num_unique_tokens" not in names:
        raise ValueError(
            f"law {law.id} does not know repeated data; fit one with num_unique_tokens (data_constrained), or leave "
            "the unique tokens out."
        )
    others = names - {*COUNTS, *DERIVED, "num_unique_tokens"}
    if others:
        raise ValueError(f"law {law.id} also depends on {', '.join(sorted(others))}: plan with a law of N and D.")
    if isinstance(source, FitResult) and (lost := withheld_exponents(source)):
        told = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in lost.items())
        raise ValueError(f"the fit withholds {told}. {what_to_train(source)}")


def _columns(
    source: FitResult | Known, demand: Demand, log_params: np.ndarray, log_tokens: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the law's variables, real or complex, in the units of the fitted table."""
    tokens = np.exp(log_tokens)
    columns = {"num_params_total": np.exp(log_params), "num_tokens": tokens}
    if "num_unique_tokens" in source.scaled.law.variable_names:
        unique = demand.num_unique_tokens or np.inf
        columns["num_unique_tokens"] = np.where(tokens.real < unique, tokens, unique)
    cost = np.exp(demand.rule.log_per_token(log_params) + log_tokens)
    columns = with_derived({**columns, "flops": cost})
    return {name: columns[name] for name in source.scaled.law.variable_names}


def _log_tokens(source: FitResult | Known, demand: Demand, z: np.ndarray, log_params: np.ndarray) -> np.ndarray:
    """Returns log tokens [b, G]: what the budget pays for, or the fewest that reach the loss; NaN where none do."""
    if demand.flops is not None:
        left = demand.flops - _served(demand, log_params)
        return np.log(np.where(left > 0, left, np.nan)) - demand.rule.log_per_token(log_params)
    wanted = source.scaled.measure.of(np.asarray(0.5 if demand.loss is None else demand.loss))

    def reached(log_tokens: np.ndarray) -> np.ndarray:
        return source.scaled.log_loss(z, _columns(source, demand, log_params, log_tokens)) <= wanted

    low, high = np.full_like(log_params, 0.0), np.full_like(log_params, 46.0)  # 1 to 1e20 tokens
    possible = reached(high)
    for _ in range(60):
        middle = 0.5 * (low + high)
        enough = reached(middle)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(possible, high, np.nan)


def _served(demand: Demand, log_params: np.ndarray) -> np.ndarray:
    """Returns the FLOPs of serving a size."""
    return INFERENCE_FLOPS * demand.inference_tokens * np.exp(log_params)


def _slope(
    source: FitResult | Known, demand: Demand, z: np.ndarray, log_params: np.ndarray, log_tokens: np.ndarray
) -> np.ndarray:
    """Returns the slope [b, G], up to a positive factor, of the loss along a budget, or of the cost along a loss.

    Both vanish where one FLOP buys as much loss by parameters as by tokens, so one formula serves both.
    """
    scaled, ahead = source.scaled, 1j * STEP

    def slope_of_loss(log_params: np.ndarray, log_tokens: np.ndarray) -> np.ndarray:
        columns = _columns(source, demand, log_params, log_tokens)
        return scaled.law.loss(scaled.constants(z), {name: x / scaled.scales[name] for name, x in columns.items()}).imag

    growth = demand.rule.log_per_token(log_params + ahead).imag / STEP
    training = np.exp(demand.rule.log_per_token(log_params) + log_tokens)
    per_params = growth + _served(demand, log_params) / training
    return slope_of_loss(log_params + ahead, log_tokens) - per_params * slope_of_loss(log_params, log_tokens + ahead)


def _best_size(source: FitResult | Known, demand: Demand, z: np.ndarray) -> np.ndarray:
    """Returns log parameters [b] of the least loss or cost: the best of a grid, then bisected where the slope turns."""
    what = f"law {source.scaled.law.id}: {source.scaled.law.formula}"
    middle = 20.0  # sizes of 50 to 4e15 parameters, whatever the loss
    if demand.flops is not None:
        middle = 0.5 * (np.log(demand.flops) - float(np.median(demand.rule.log_coefficient)))
    axis = np.linspace(middle - REACH, middle + REACH, GRID)
    with np.errstate(all="ignore"):
        sizes = np.broadcast_to(axis, (len(z), GRID))
        tokens = _log_tokens(source, demand, z, sizes)
        if demand.flops is not None:
            value = source.scaled.log_loss(z, _columns(source, demand, sizes, tokens))
        else:
            value = np.exp(demand.rule.log_per_token(sizes) + tokens) + _served(demand, sizes)
        value = np.where(np.isnan(value), np.inf, value)
        best = value.argmin(axis=1)
        if not np.all(np.isfinite(value.min(axis=1))):
            raise ValueError(f"{what}: no size reaches this loss; it is below what the law allows.")
        if np.any((best == 0) | (best == GRID - 1)):
            raise ValueError(f"{what}: no compute-optimal size; every larger (or smaller) model is better.")
        low, high = axis[best - 1], axis[best + 1]
        for _ in range(50):
            centre = 0.5 * (low + high)
            tokens = _log_tokens(source, demand, z, centre[:, None])
            slope = _slope(source, demand, z, centre[:, None], tokens)[:, 0]
            rising = np.where(np.isnan(slope), centre > axis[best], slope > 0)  # NaN where no tokens are left
            low, high = np.where(rising, low, centre), np.where(rising, centre, high)
    return 0.5 * (low + high)


def _interval(logs: np.ndarray, uncertainty: Uncertainty | None, level: float) -> tuple[float, float] | None:
    """Returns the interval of a count from its logarithms at the `stepped` points; None for a law taken to be true."""
    return None if uncertainty is None else stepped_interval(logs, WIDTH, uncertainty, level, is_log=True)
