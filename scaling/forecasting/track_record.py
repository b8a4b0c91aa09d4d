"""What earlier forecasts of the same recipe came to, and by how much it narrows or widens the next ones."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kleiber.scaling.fitting.estimates import t_quantile
from kleiber.scaling.forecasting.ledger import Ledger, LedgerError
from kleiber.scaling.forecasting.rolling import NUM_ORIGINS, PRIOR_ORIGINS, Protection
from kleiber.scaling.forecasting.scoreboard import standing

PRIOR_OUTCOMES = 4.0
"""As many earlier outcomes are taken to have been as far off as their intervals said, before any was.

Tables of one family miss by sizes whose logarithms differ by a third from one family to the next, as scaled inverse
chi-squared with four or five degrees would have it; what that gives in simulation is `past` in docs/truth.md."""
DEGREES = PRIOR_ORIGINS + NUM_ORIGINS
"""Of freedom, of forecasts that were registered without."""


@dataclass(frozen=True)
class TrackRecord:
    """Outcomes of forecasts that were registered before their runs began."""

    squares: tuple[float, ...]
    """Squared error of each, in the standard errors that its own fit said before it heard of any past."""

    @property
    def factor(self) -> float:
        """What standard errors are multiplied by: the root mean square, shrunk to 1 as by PRIOR_OUTCOMES more."""
        return float(np.sqrt((PRIOR_OUTCOMES + sum(self.squares)) / (PRIOR_OUTCOMES + len(self.squares))))

    def heard_by(self, protection: Protection) -> Protection:
        """Returns the protection of a fit that knows of these outcomes; each adds a degree of freedom."""
        if protection.past_outcomes:
            raise ValueError(
                f"this fit has heard of {protection.past_outcomes} earlier outcomes already: name all ledgers at once, "
                "where it is fitted."
            )
        return replace(
            protection,
            factor=protection.factor * self.factor,
            degrees_of_freedom=protection.degrees_of_freedom + len(self.squares),
            past_factor=self.factor,
            past_outcomes=len(self.squares),
        )


def read_track_record(ledgers: Iterable[str | Path]) -> TrackRecord:
    """Returns the outcomes of ledgers; late and withdrawn forecasts do not count, and each counts once.

    Raises:
      LedgerError: a ledger is not there, was tampered with, or has no outcome that counts.
    """
    squares: dict[str, float] = {}
    for path in map(Path, ledgers):
        if not path.is_file():
            raise LedgerError(
                f"no ledger at {path}: past ledgers are the ledger.jsonl of earlier sweeps, as seen from here."
            )
        found = standing(Ledger(path).entries()).values()
        scored = [(said, came) for said, came in found if came and not said.get("late")]
        if not scored:
            raise LedgerError(
                f"{path} holds no outcome of a forecast that was registered before its run began, so that nothing is "
                "to be learnt from it: leave it out, or let its sweep end first."
            )
        squares |= {said["hash"]: _square(said, came["observed_loss"]) for said, came in scored}
    return TrackRecord(tuple(squares.values()))


def _square(said: dict, observed: float) -> float:
    low, high = said["interval"]
    predicted, past = said["predicted_loss"], said.get("past", {}).get("factor", 1.0)
    side = high - predicted if observed > predicted else predicted - low
    quantile = float(t_quantile(np.array(said.get("degrees_of_freedom", DEGREES)), 0.5 + said["level"] / 2))
    return float(((observed - predicted) / max(side, 1e-300) * quantile * past) ** 2)
