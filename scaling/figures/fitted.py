"""A FitResult as the figures use it: loss and interval over sizes and token counts, and draws of the law."""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from kleiber.scaling.figures.study import Floats, Predict
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import combined_forecast
from kleiber.scaling.forecasting.mixture import mixture_weights
from kleiber.scaling.forecasting.rolling import Protection


@dataclass(frozen=True)
class FittedLaw:
    """The law of a fit over (num_params, num_tokens); its other variables stay at their geometric means."""

    fit: FitResult
    level: float = 0.9
    """Probability of the band."""
    rivals: tuple[FitResult, ...] = ()
    """Other forms fitted to the same runs, combined with the first in the forecast and its band."""
    protection: Protection | None = None
    """Of all of them."""

    def columns(self, num_params: Floats, num_tokens: Floats) -> dict[str, Floats]:
        """Returns the law's variables, each flat float64."""
        given = {"num_params_total": num_params, "num_tokens": num_tokens}
        shape = np.broadcast_shapes(np.shape(num_params), np.shape(num_tokens))
        return {
            name: np.broadcast_to(np.asarray(given.get(name, value), np.float64), shape).ravel()
            for name, value in self._middle.items()
        }

    @cached_property
    def _middle(self) -> dict[str, float]:
        names = self.fit.scaled.law.variable_names
        return {name: float(np.exp(np.mean(np.log(self.fit.points[name])))) for name in names}

    def predict(self, num_params: Floats, num_tokens: Floats) -> Floats:
        """Returns the loss, of the shape of the arguments."""
        return self._loss_at(self.fit.z, num_params, num_tokens)

    def forecast_loss(self, num_params: Floats, num_tokens: Floats) -> Floats:
        """Returns the loss that `combined_forecast` says, of the shape of the arguments."""
        fits = [self.fit, *self.rivals]
        logs = [np.log(FittedLaw(fit).predict(num_params, num_tokens)) for fit in fits]
        return np.exp(np.average(logs, axis=0, weights=mixture_weights(fits)))

    def _loss_at(self, z: Floats, num_params: Floats, num_tokens: Floats) -> Floats:
        shape = np.broadcast_shapes(np.shape(num_params), np.shape(num_tokens))
        return self.fit.measure.back(self.fit.scaled.log_loss(z, self.columns(num_params, num_tokens))).reshape(shape)

    def band(self, num_params: Floats, num_tokens: Floats) -> tuple[Floats, Floats]:
        """Returns (low, high), [points] each: the prediction interval of one new run, spread between forms included."""
        others = {name: value for name, value in self._middle.items() if name not in ("num_params_total", "num_tokens")}
        pairs = [
            combined_forecast([self.fit, *self.rivals], size, tokens, self.level, others, self.protection).interval
            for size, tokens in zip(num_params, num_tokens, strict=True)
        ]
        low, high = np.array(pairs).T
        return low, high

    def draws(self, count: int, seed: int = 0) -> list[Predict]:
        """Returns laws drawn from the normal approximation of the fit's uncertainty, for bands of the frontier."""
        rng = np.random.default_rng(seed)
        values, vectors = np.linalg.eigh(self.fit.uncertainty.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        points = self.fit.z + rng.standard_normal((count, len(self.fit.z))) @ root.T
        low, high = self.fit.scaled.bounds
        return [partial(self._loss_at, np.clip(z, low, high)) for z in points]
