"""What a designer starts from: a law with constants and a noise, the runs already there, and rival laws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kleiber.scaling.designing.simulate import RunNoise
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.fitting.scaled_law import Model, make_model
from kleiber.scaling.forecasting.forecast import form_weights
from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law
from kleiber.scaling.table.table import RunTable

Columns = Mapping[str, np.ndarray]
"""float64 [runs] by name."""


@dataclass(frozen=True)
class Known:
    """What the designer starts from: a law with constants, a noise, and perhaps runs already measured."""

    model: Model
    """Its columns are the runs already there; none of them count if `has_runs` is False."""
    z: np.ndarray
    """float64 [P], working point."""
    noise: RunNoise
    trunk: tuple[str, ...] | None = None
    has_runs: bool = False
    weight: float = 1.0
    """Akaike weight relative to the law designed for."""

    def predict(self, columns: Columns) -> np.ndarray:
        """Returns log losses [runs]."""
        return self.model.log_loss(self.z[None], columns)[0]


def known_from_fit(fit: FitResult) -> Known:
    """Returns what a fit knows: its runs count towards the design."""
    return Known(fit.model, fit.z, RunNoise(max(fit.noise.sigma, 1e-9), fit.noise.tau), fit.clusters, True)


def known_from_law(law: str | Law, constants: Mapping[str, float], noise: RunNoise, columns: Columns) -> Known:
    """Returns a law taken to be true, with no runs yet; the columns only set the scale, as a pool of candidates."""
    law = get_law(law) if isinstance(law, str) else law
    model = make_model(law, columns)
    return Known(model, model.working(constants), noise)


def rivals_from_fits(fits: Sequence[FitResult]) -> list[Known]:
    """Returns the other forms fitted to the same runs, weighted by AICc against the first; rejected ones are gone."""
    weights = form_weights(fits)
    pairs = zip(fits[1:], weights[1:], strict=True)
    return [replace(known_from_fit(fit), weight=each / max(weights[0], 1e-12)) for fit, each in pairs if each > 0]


def rivals_from_laws(known: Known, laws: Sequence[str], columns: Columns) -> list[Known]:
    """Returns other forms, each as close to the law designed for as it can get over the candidates."""
    # Candidates on several trunks are the same run several times.
    rows = np.unique(np.stack(list(columns.values()), 1), axis=0)
    columns = {name: rows[:, index].copy() for index, name in enumerate(columns)}
    losses = np.exp(known.predict(columns))
    table = RunTable({**columns, "loss": losses}, {}, "candidates")
    fits = [fit_law(table, law) for law in laws]
    return [Known(fit.model, fit.z, known.noise) for fit in fits]
