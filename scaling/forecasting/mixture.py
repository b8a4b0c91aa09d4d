"""Several forms of a law as one forecast: how much each has to say, their mean, and where its error comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kleiber.scaling.fitting.part import PartFit
from kleiber.scaling.fitting.result import FitResult

RUNS_HEARD = 3.0
"""However many runs there are, at most as many tell forms apart as if these were all.

No form is exactly right, and what separates forms in range is often the start of training in the shortest runs. The
likelihood is therefore raised to a power that leaves it worth n * 3 / (n + 3) runs, the coarsened posterior of Miller
and Dunson 2019, JASA 114, section 2. Tuned on public tables, as are the constants below: docs/truth.md."""
FORM_SHARE = 0.25
"""Part of the variance between forms that is error of their mean: errors of forms tend to have opposite signs."""
LARGEST_VARIANCE = 1.0
"""Of log loss; a form that says less than this says nothing."""

Fitted = FitResult | PartFit


@dataclass(frozen=True)
class Mixture:
    """What several forms say together of log losses, or what else their residuals compare; float64 [runs] each."""

    log_loss: np.ndarray
    """The mean of the forms."""
    own: np.ndarray
    """Of one form: its constants and the noise of a new run; the geometric mean over the forms."""
    parts: Mapping[str, np.ndarray]
    """Which add up to `own`: parameter (of the constants), sigma and tau (of one new run)."""
    between: np.ndarray
    """Of the forms around their mean."""
    per_log: np.ndarray
    """How much of what is compared one e-fold of loss is; 1 where that is log loss."""
    degrees_of_freedom: np.ndarray
    """The fewest that any form has for a run."""

    @property
    def variance(self) -> np.ndarray:
        """Variance of the error of the mean, as far as the forms know."""
        return self.own + FORM_SHARE * self.between


def mixture_weights(fits: Sequence[Fitted]) -> np.ndarray:
    """Returns how much each form has to say [forms]: coarsened Akaike weights of fits of the same runs."""
    weights = np.exp(-0.5 * excess_aicc(fits) * RUNS_HEARD / (RUNS_HEARD + fits[0].num_points))
    return weights / weights.sum()


def excess_aicc(fits: Sequence[Fitted]) -> np.ndarray:
    """Returns AICc above the best [forms]: infinite where the runs are too few for one, zeros if they are for all."""
    aicc = np.nan_to_num([fit.aicc for fit in fits], nan=np.inf)
    return aicc - aicc.min() if np.isfinite(aicc.min()) else np.zeros(len(fits))


def mix(fits: Sequence[Fitted], columns: Mapping[str, np.ndarray], noise: np.ndarray | float = 1.0) -> Mixture:
    """Returns what fits of the same runs say together of new runs, each on a trunk of its own.

    Args:
      fits: at least one.
      columns: float64 [runs] each, every variable of every law.
      noise: [runs], variance of each new run over that of one of weight 1 (`Measure.noise`).
    """
    measure = fits[0].scaled.measure
    largest = LARGEST_VARIANCE if measure.kind != "raw" else np.inf  # raw losses have any unit
    each = [log_gradients(fit, columns) for fit in fits]
    log_loss = np.stack([value for value, _ in each])
    plain, total, degrees = [], [], []
    for fit, (_, gradient) in zip(fits, each, strict=True):
        plain.append(fit.uncertainty.degrees_of(gradient)[0])
        variance, freedom = fit.uncertainty.degrees_of(gradient, noise)
        total.append(variance)
        degrees.append(freedom)
    own, sound = np.stack(total), np.isfinite(log_loss) & np.isfinite(total)
    weights = np.where(sound, mixture_weights(fits)[:, None], 0.0)
    weights = weights / np.where(sound.any(axis=0), weights.sum(axis=0), np.nan)
    log_loss, own = np.where(sound, log_loss, 0.0), np.where(sound, np.minimum(own, largest), 1.0)
    mean = (weights * log_loss).sum(axis=0)
    geometric = np.exp((weights * np.log(own)).sum(axis=0))
    sigma, tau = np.array([[fit.uncertainty.variances[0], fit.uncertainty.variances[1:].sum()] for fit in fits]).T
    share = weights / np.where(sound, np.stack(total), 1.0)
    return Mixture(
        mean,
        geometric,
        {
            "parameter": geometric * (share * np.where(sound, plain, 0.0)).sum(axis=0),
            "sigma": geometric * (share * sigma[:, None]).sum(axis=0) * noise,
            "tau": geometric * (share * tau[:, None]).sum(axis=0) * noise,
        },
        (weights * (log_loss - mean) ** 2).sum(axis=0),
        measure.per_log(measure.back(mean)),
        np.min(degrees, axis=0),
    )


def log_gradients(fit: Fitted, columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the predicted log losses [runs] and their derivatives [runs, P] by the working coordinates."""
    with np.errstate(all="ignore"):
        if not len(fit.z):
            value = fit.scaled.log_loss(fit.z[None], columns)[0]
            return value, np.zeros((len(value), 0))
        value, jacobian = fit.scaled.log_loss_and_jacobian(fit.z[None], columns)
    return value[0], jacobian[0]
