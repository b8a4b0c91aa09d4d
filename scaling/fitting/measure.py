"""How a measured loss is held against a predicted one: by logarithm, ratio, difference or logit, each run weighed."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

KINDS = ("log", "relative", "raw", "logit")


@dataclass(frozen=True)
class Measure:
    """What residuals are differences of, and how much each run weighs."""

    kind: str = "log"
    """"log"; "relative" for predicted over measured less one, told as a logarithm too; "raw", for losses that may be
    negative; "logit" for shares between 0 and 1."""
    weights: np.ndarray | None = None
    """float64 [runs], what residuals are multiplied by; None for ones."""
    is_signed: bool = False
    """Whether some losses are not positive, so that their floor may be negative too."""

    @property
    def is_log(self) -> bool:
        """Whether noise and intervals are of the logarithm."""
        return self.kind in ("log", "relative")

    def of(self, loss: Any) -> Any:
        """Returns the losses as they are compared; NaN where they cannot be."""
        if self.kind == "raw":
            return loss
        if self.kind == "logit":
            loss = np.where((loss > 0) & (loss < 1), loss, np.nan)
            return np.log(loss) - np.log1p(-loss)
        return np.log(np.where(loss > 0, loss, np.nan))

    def back(self, value: Any) -> Any:
        """Returns the losses that are compared as these values."""
        if self.kind == "raw":
            return value
        return 1 / (1 + np.exp(-value)) if self.kind == "logit" else np.exp(value)

    def width(self, loss: Any) -> Any:
        """Returns how much a loss changes with its value, d loss / d value."""
        if self.kind == "raw":
            return np.ones_like(loss)
        return loss * (1 - loss) if self.kind == "logit" else loss

    def per_log(self, loss: np.ndarray) -> np.ndarray:
        """Returns how much a value changes with the logarithm of its loss; 1 where that is what is compared."""
        return np.ones_like(loss) if self.is_log else np.abs(loss) / self.width(loss)

    @property
    def noise(self) -> np.ndarray | float:
        """Variance of each run's value over that of a run of weight 1, [runs] or 1."""
        return 1.0 if self.weights is None else self.weights**-2

    @property
    def size_format(self) -> str:
        """How deviations are written: per cent of a logarithm, others as they are."""
        return ".3%" if self.is_log else ".4g"

    def weighed(self, difference: np.ndarray, jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns residuals [b, runs] and derivatives [b, runs, P] of predicted less measured values, weighed."""
        if self.kind == "relative":
            difference, jacobian = np.expm1(difference), jacobian * np.exp(difference)[..., None]
        if self.weights is not None:
            difference, jacobian = difference * self.weights, jacobian * self.weights[:, None]
        return difference, jacobian

    def on(self, rows: np.ndarray) -> "Measure":
        """Returns the same for some of the runs."""
        return self if self.weights is None else replace(self, weights=self.weights[rows])


LOG = Measure()


def weights_of(errors: np.ndarray | None, loss: np.ndarray, measure: Measure) -> np.ndarray | None:
    """Returns what to multiply residuals [runs] by for standard errors of the losses; 1 in the geometric mean."""
    if errors is None:
        return None
    inverse = measure.width(loss) / errors
    return inverse / np.exp(np.mean(np.log(inverse)))
