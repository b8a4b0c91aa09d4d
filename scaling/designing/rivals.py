"""Rival laws of a design: runs that tell them from the law designed for are worth more."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.known import Known, known_from_fit
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.forecast import form_weights
from kleiber.scaling.law import Law, Values
from kleiber.scaling.table.table import RunTable


def rivals_from_fits(fits: Sequence[FitResult]) -> list[Known]:
    """Returns the other forms fitted to the same runs, weighted by AICc against the first; rejected ones are gone."""
    weights = form_weights(fits)
    pairs = zip(fits[1:], weights[1:], strict=True)
    return [replace(known_from_fit(fit), weight=each / max(weights[0], 1e-12)) for fit, each in pairs if each > 0]


def rivals_from_laws(known: Known, laws: Sequence[str | Law], columns: Values, starts: int = 16) -> list[Known]:
    """Returns other forms, each as close to the law designed for as it can get over the candidates."""
    # Candidates on several trunks are the same run several times.
    rows = np.unique(np.stack(list(columns.values()), 1), axis=0)
    columns = {name: rows[:, index].copy() for index, name in enumerate(columns)}
    losses = np.exp(known.predict(columns))
    table = RunTable({**columns, "loss": losses}, {}, "candidates")
    fits = [fit_law(table, law, starts=starts) for law in laws]
    return [Known(fit.scaled, fit.z, known.noise) for fit in fits]
