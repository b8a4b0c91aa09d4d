"""The default's intervals where its constants are chosen without the runs that they are scored on."""

import itertools
from collections.abc import Mapping
from unittest.mock import patch

import numpy as np
from scipy.stats import t

from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting import mixture, rolling

DRIFTS, FORM_SHARES = (0.004, 0.008, 0.016), (0.1, 0.25, 0.5)
CAUTIONS, PRIORS = (0.4, 0.5, 0.6, 0.7, 0.85), (1.0, 2.0, 4.0)
SETTINGS = tuple(itertools.product(DRIFTS, FORM_SHARES, CAUTIONS, PRIORS))
"""Values of DRIFT, FORM_SHARE, CAUTION and PRIOR_ORIGINS to choose among."""


def half_widths(
    fits: list[FitResult], origins: list[rolling.Origin], asked: Mapping[str, np.ndarray], level: float
) -> np.ndarray:
    """Returns half of the default's intervals in log loss, float64 [runs, settings]."""
    found = []
    mixed = mixture.mix(fits, asked)
    reach = rolling.reach_of({name: fits[0].points[name] for name in asked}, asked)
    for drift, share in itertools.product(DRIFTS, FORM_SHARES):
        with patch.object(rolling, "DRIFT", drift), patch.object(mixture, "FORM_SHARE", share):
            for caution, prior in itertools.product(CAUTIONS, PRIORS):
                with patch.object(rolling, "CAUTION", caution), patch.object(rolling, "PRIOR_ORIGINS", prior):
                    said = rolling.protect(fits, origins)
                found.append(t.ppf(0.5 + level / 2, said.degrees_of_freedom) * said.deviation(mixed, reach))
    return np.stack(found, axis=1)


def chosen_without(
    group: np.ndarray, family: np.ndarray, error: np.ndarray, halves: np.ndarray, level: float
) -> np.ndarray:
    """Returns the half-widths [runs] with the constants of the least interval score over the other groups' families.

    Args:
      group, family: [runs], a run's own; each family counts as much.
      error: float64 [runs], of log loss.
      halves: float64 [runs, settings], as `half_widths`.
      level: probability of the intervals.
    """
    score = 2 * halves + 2 / (1 - level) * np.maximum(np.abs(error)[:, None] - halves, 0)
    out = np.empty(len(error))
    for name in np.unique(group):
        rest = group != name
        mean = np.mean([score[rest & (family == each)].mean(axis=0) for each in np.unique(family[rest])], axis=0)
        out[~rest] = halves[~rest, int(mean.argmin())]
    return out
