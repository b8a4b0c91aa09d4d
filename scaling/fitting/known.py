"""What is known before the next run: a law with constants and a noise, and perhaps runs already measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from kleiber.scaling.fitting.noise import RunNoise
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import ScaledLaw, make_scaled_law
from kleiber.scaling.law import Law, Values
from kleiber.scaling.laws import get_law


@dataclass(frozen=True)
class Known:
    """What planning starts from: a fitted law with its runs, or one that is taken to be true."""

    scaled: ScaledLaw
    """Its columns are the runs already there; none of them count if `has_runs` is False."""
    z: np.ndarray
    """float64 [P], working point."""
    noise: RunNoise
    trunk: tuple[str, ...] | None = None
    has_runs: bool = False
    weight: float = 1.0
    """Akaike weight relative to the law designed for."""

    def predict(self, columns: Values) -> np.ndarray:
        """Returns log losses [runs]."""
        return self.scaled.log_loss(self.z[None], columns)[0]


def known_from_fit(fit: FitResult) -> Known:
    """Returns what a fit knows: its runs count towards the design."""
    return Known(fit.scaled, fit.z, replace(fit.noise, sigma=max(fit.noise.sigma, 1e-9)), fit.clusters, True)


def known_from_law(law: str | Law, constants: Mapping[str, float], noise: RunNoise, columns: Values) -> Known:
    """Returns a law taken to be true, with no runs yet; the columns only set the scale, as a pool of candidates."""
    law = get_law(law)
    scaled = make_scaled_law(law, columns)
    return Known(scaled, scaled.working(constants), noise)
