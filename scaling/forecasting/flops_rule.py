"""What training costs in FLOPs: a rule of thumb, or as the fitted runs were counted."""

from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.result import FitResult


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
