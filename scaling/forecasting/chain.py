"""Accuracy of a run nobody has trained yet: the forecast of its loss, through the law of accuracy by that loss."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kleiber.scaling.fitting.estimates import t_quantile
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.fitting.measure import Measure
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.table.table import RunTable

QUANTILES = (np.arange(101) + 0.5) / 101
"""Of the loss, and of the accuracy at each of them."""


@dataclass(frozen=True)
class AccuracyForecast:
    """A predicted accuracy and its interval for one new run."""

    predicted_accuracy: float
    """Of a run with the predicted loss."""
    interval: tuple[float, float]
    level: float
    parts: tuple[float, float, float]
    """Standard deviations of the accuracy: from the forecast of the loss, from the constants of the law of accuracy,
    and of runs of equal loss."""

    def report(self) -> str:
        """Returns the forecast as a line of text."""
        low, high = self.interval
        loss, constants, noise = self.parts
        return (
            f"  accuracy {self.predicted_accuracy:.4f}, {self.level:.0%} interval [{low:.4f}, {high:.4f}]; width from "
            f"loss {loss:.4f}, its law {constants:.4f}, runs of equal loss {noise:.4f}"
        )


def fit_accuracy(table: RunTable, **options: Any) -> FitResult:
    """Returns the law of the column `accuracy` by the losses of a table, compared by logits.

    Args:
      table: runs or checkpoints with columns `loss`, of the task, and `accuracy`, between 0 and 1; rows where it is
        missing do not count.
      **options: as for `fit_law`.

    Raises:
      TableError, ValueError: as `fit_law`.
    """
    named = {"loss": "accuracy", "task_loss": "loss"}
    columns = {**table.columns, **{ours: table[theirs] for ours, theirs in named.items()}}
    labels = {name: each for name, each in table.labels.items() if name not in columns}
    seen = RunTable(columns, labels, table.source, table.notes, named, table.dropped, table.rows)
    return fit_law(seen.where(~np.isnan(seen["loss"])), "accuracy", residuals="logit", **options)


def chained(
    link: FitResult, loss: float, standard_error: float, degrees: float, level: float, kind: str
) -> AccuracyForecast:
    """Returns the accuracy of a run whose loss is forecast, with what its loss and its accuracy given the loss add.

    The interval holds a share `level` of all pairs of a loss as forecast and an accuracy at that loss; so it follows
    the bend of the law, where a straight line would leave [0, 1] or see no slope near chance.

    Args:
      link: of `fit_accuracy`.
      loss, standard_error, degrees, kind: of the forecast, its degrees of freedom, and residuals it is of.
      level: probability of the interval.
    """
    measure = Measure(kind)
    deviation = standard_error / float(measure.width(np.float64(loss)))
    losses = measure.back(measure.of(np.float64(loss)) + deviation * t_quantile(degrees, QUANTILES))
    columns = {"task_loss": np.append(losses, loss)}
    logit, jacobian = (each[0] for each in link.scaled.log_loss_and_jacobian(link.z[None], columns))
    known, _ = link.uncertainty.degrees_of(jacobian)
    variance, freedom = link.uncertainty.degrees_of(jacobian, 1.0)
    reach = t_quantile(freedom[:-1, None], QUANTILES)
    pairs = link.measure.back(logit[:-1, None] + np.sqrt(variance[:-1, None]) * reach)
    tail = (1 - level) / 2
    low, high = np.quantile(pairs, [tail, 1 - tail])
    predicted = float(link.measure.back(logit[-1]))
    width = float(link.measure.width(np.float64(predicted)))
    of_loss = float(np.std(link.measure.back(logit[:-1])))
    parts = (of_loss, width * float(np.sqrt(known[-1])), width * link.noise.new_run)
    return AccuracyForecast(predicted, (float(low), float(high)), level, parts)
