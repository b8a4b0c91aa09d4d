"""The compute-optimal run of a budget with intervals, and what a run costs: a rule of thumb, or as the runs counted."""

from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.estimates import interval
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import STEP


@dataclass(frozen=True)
class FlopsRule:
    """Training FLOPs = coefficient x parameters x tokens, where the coefficient may move with the parameters."""

    log_params: np.ndarray
    """float64 [knots], ascending."""
    log_coefficient: np.ndarray
    """float64 [knots]; a straight line between knots, level beyond them."""
    text: str

    def log_per_token(self, log_params: np.ndarray | float) -> np.ndarray:
        """Returns the logarithm of the FLOPs of one token, for real or complex log parameters of any shape."""
        log_params = np.asarray(log_params)
        real = np.interp(log_params.real, self.log_params, self.log_coefficient)
        if not np.iscomplexobj(log_params):
            return real + log_params
        ahead = np.interp(log_params.real + 1e-6, self.log_params, self.log_coefficient)
        return real + 1j * log_params.imag * (ahead - real) / 1e-6 + log_params

    def flops(self, num_params: float, num_tokens: float) -> float:
        """Returns the FLOPs of one run."""
        return float(np.exp(self.log_per_token(np.log(np.float64(num_params)))) * num_tokens)


def plain_rule(coefficient: float = 6.0) -> FlopsRule:
    """Returns coefficient x parameters x tokens; 6 counts forward and backward products and leaves attention out.

    Raises:
      ValueError: if the coefficient is not positive.
    """
    if not coefficient > 0:
        raise ValueError(f"FLOPs per parameter and token must be positive, got {coefficient}.")
    return FlopsRule(np.zeros(1), np.log([coefficient]), f"{coefficient:g} x parameters x tokens")


def counted_rule(fit: FitResult) -> FlopsRule:
    """Returns the rule of the `flops` column of the fitted runs: the median of FLOPs / (parameters x tokens) by size.

    Attention and the head make small models dearer than 6 a parameter and token: twice and more. Beyond the largest
    size the coefficient stays as it is there, a little too high.

    Raises:
      ValueError: if the fitted table had no such column.
    """
    if "flops" not in fit.points or not {"num_params_total", "num_tokens"} <= set(fit.points):
        raise ValueError(
            "the fitted table had no column flops beside parameters and tokens; give a number of FLOPs per parameter "
            "and token, or map the column and fit again: --columns flops=COLUMN."
        )
    log_params = np.log(fit.points["num_params_total"])
    ratio = np.log(fit.points["flops"] / fit.points["num_tokens"]) - log_params
    knots = np.unique(np.round(log_params, 2))
    nearest = np.abs(log_params[:, None] - knots[None]).argmin(axis=1)
    level = np.array([np.median(ratio[nearest == index]) for index in range(len(knots))])
    low, high = np.exp(level.min()), np.exp(level.max())
    return FlopsRule(knots, level, f"counted: {low:.3g} to {high:.3g} x parameters x tokens")


@dataclass(frozen=True)
class Optimum:
    """The compute-optimal run of a budget, with intervals from the fit."""

    flops: float
    num_params_total: float
    num_params_interval: tuple[float, float]
    num_tokens: float
    num_tokens_interval: tuple[float, float]
    level: float
    flops_rule: str


def log_optimal_params(fit: FitResult, z: np.ndarray, flops: float, rule: FlopsRule) -> np.ndarray:
    """Returns log N [b] that minimises the loss over a budget, for working points z [b, P].

    Raises:
      ValueError: if the law has no optimum inside 30 orders of magnitude, as a product law has none.
    """
    law = fit.model.law
    if set(law.variable_names) != {"num_params_total", "num_tokens"}:
        raise ValueError(f"law {law.id} has no compute-optimal size: it needs parameters and tokens, nothing else.")

    def slope(log_params: np.ndarray) -> np.ndarray:
        shifted = log_params[:, None] + 1j * STEP
        x = {"num_params_total": np.exp(shifted), "num_tokens": np.exp(np.log(flops) - rule.log_per_token(shifted))}
        x = {name: value / fit.scales[name] for name, value in x.items()}
        return law.loss(fit.model.constants(z), x)[:, 0].imag

    middle = 0.5 * (np.log(flops) - float(np.median(rule.log_coefficient)))
    low, high = np.full(len(z), middle - 35.0), np.full(len(z), middle + 35.0)
    if not (np.all(slope(low) < 0) and np.all(slope(high) > 0)):
        raise ValueError(f"law {law.id} has no interior compute-optimal size: {law.formula}.")
    for _ in range(70):
        centre = 0.5 * (low + high)
        rising = slope(centre) > 0
        low, high = np.where(rising, low, centre), np.where(rising, centre, high)
    return 0.5 * (low + high)


def optimum(fit: FitResult, flops: float, level: float = 0.9, rule: FlopsRule | None = None) -> Optimum:
    """Returns the parameters and tokens of least predicted loss for a budget, with intervals.

    Args:
      fit: a law of parameters and tokens.
      flops: budget of one training run.
      level: probability of the intervals.
      rule: what a run costs; 6 a parameter and token if left out.

    Raises:
      ValueError: if the fit withholds its exponents or the law has no interior optimum.
    """
    if fit.optimum.get("a") is None:
        raise ValueError(f"law {fit.law} gives no compute-optimal size here: {fit.optimum.get('withheld')}")
    if not flops > 0:
        raise ValueError(f"a budget must be positive, got {flops:g} FLOPs.")
    rule = rule or plain_rule()
    width = 1e-5
    points = np.concatenate([fit.z[None], fit.z + width * np.eye(len(fit.z)), fit.z - width * np.eye(len(fit.z))])
    found = log_optimal_params(fit, points, flops, rule)
    count = len(fit.z)
    gradient = (found[1 : count + 1] - found[count + 1 :]) / (2 * width)
    variance, degrees = fit.uncertainty.degrees(gradient)
    params = float(np.exp(found[0]))
    low, high = interval(params, float(np.sqrt(variance)), degrees, True, level)
    tokens = [
        float(np.exp(np.log(flops) - rule.log_per_token(np.log(np.float64(each))))) for each in (params, high, low)
    ]
    return Optimum(
        flops=flops,
        num_params_total=params,
        num_params_interval=(low, high),
        num_tokens=tokens[0],
        num_tokens_interval=(tokens[1], tokens[2]),
        level=level,
        flops_rule=rule.text,
    )
