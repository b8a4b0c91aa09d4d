"""The figures of a report by name, each drawn from what a sweep directory holds."""

import io
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.experiments.report.results import (
    SweepResults,
    curves_of,
    points_of,
    series_of,
    targets_of,
    trunks_with_curves,
    varied_knob,
)
from kleiber.experiments.report.time_spent import time_figure
from kleiber.scaling.figures import forecast as forecast_figures
from kleiber.scaling.figures import law as law_figures
from kleiber.scaling.figures import levels as level_figures
from kleiber.scaling.figures import runs as run_figures
from kleiber.scaling.figures.fitted import FittedLaw
from kleiber.scaling.figures.study import ForecastRun, Points, cost_model
from kleiber.scaling.figures.style import claim_of
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.rolling import read_protection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 140
"""Sharp on a dense screen at the width of the page, and a tenth of a megabyte a figure."""
NUM_DRAWS = 200
"""Laws drawn for the frontier's band; its edges then wander by under a tenth of its width."""


class NotThereYet(LookupError):
    """A figure needs something that the sweep has not made; the message says what."""


class Study:
    """The parts of a sweep that figures share, each made once and only if asked for."""

    def __init__(self, results: SweepResults):
        self.results = results

    @cached_property
    def points(self) -> Points:
        """The fitted runs."""
        try:
            return points_of(self.results)
        except LookupError as problem:
            raise NotThereYet(f"{problem} yet") from None

    @cached_property
    def targets(self) -> list[ForecastRun]:
        """The registered forecasts."""
        return targets_of(self.results)

    @cached_property
    def fits(self) -> list[FitResult]:
        """The registered fit, then its rivals.

        Raises:
          NotThereYet: there is no fit, or its file is not one.
        """
        if self.results.fit is None:
            asked = self.results.experiment.get("laws", True)
            raise NotThereYet("no law has been fitted yet" if asked else "the experiment fits no law")
        try:
            return [FitResult.from_json(part) for part in (self.results.fit, *self.results.fit.get("rivals", ()))]
        except ValueError as problem:
            raise NotThereYet(f"fit.json cannot be used: {problem}") from None

    @cached_property
    def law(self) -> FittedLaw:
        """The registered law."""
        level = float(self.results.experiment.get("level", 0.9))
        protection = read_protection(self.results.fit or {}, self.fits)
        return FittedLaw(self.fits[0], level, tuple(self.fits[1:]), protection)

    @property
    def gaps(self) -> tuple[str, ...]:
        """What is missing or damaged, a fit that cannot be used included."""
        if self.results.fit is None or self.is_fitted:
            return self.results.gaps
        try:
            self.fits  # noqa: B018  raises, saying why
        except NotThereYet as gap:
            return (*self.results.gaps, str(gap))
        return self.results.gaps

    @property
    def is_fitted(self) -> bool:
        """Whether there is a law to draw."""
        try:
            return bool(self.fits)
        except NotThereYet:
            return False


def _hero(study: Study) -> "Figure":
    if study.results.fit is None:
        return forecast_figures.hero(study.points, None, None, study.targets)
    return forecast_figures.hero(study.points, study.law.forecast_loss, study.law.band, study.targets)


def _curves(study: Study) -> "Figure":
    sizes = trunks_with_curves(study.results)
    curves = curves_of(study.results, sizes)
    if not curves:
        raise NotThereYet("no training curve has been written yet (runs/*/metrics.jsonl)")
    points = study.points if study.results.fitted else None
    lost = len(study.results.lost)
    return run_figures.loss_curves(curves, points, lost, study.results.sizes, len(sizes))


def _slices(study: Study) -> "Figure":
    return run_figures.isoflop_slices(study.points, study.law.predict, sizes=study.results.sizes)


def _surface(study: Study) -> "Figure":
    return run_figures.fitted_surface(study.points, study.law.predict, study.targets)


def _frontier(study: Study) -> "Figure":
    reach = max((target.compute_ratio for target in study.targets), default=1.0)
    cost = cost_model(study.points, study.targets)
    draws = study.law.draws(NUM_DRAWS)
    return law_figures.optimal_frontier(study.points, study.law.predict, draws, cost, reach, sizes=study.results.sizes)


def _residuals(study: Study) -> "Figure":
    return law_figures.residuals(study.points, study.law.predict, study.results.sizes)


def _parameters(study: Study) -> "Figure":
    return law_figures.parameters_by_law(study.fits)


def _truth(study: Study) -> "Figure":
    if not any(target.observed is not None for target in study.targets):
        raise NotThereYet("no forecast has been tested yet")
    return forecast_figures.forecast_against_truth(
        study.targets, other_forecasts(study), METHOD_NAMES, study.results.sizes
    )


METHOD_NAMES = {
    "baseline last_point": "largest run again",
    "baseline product": "product, no floor",
    "baseline log_linear": "straight line in logs",
    "baseline previous_best": "best law so far",
}
"""Words for the ledger's baselines; laws go by their names."""


def other_forecasts(study: Study) -> dict[str, dict[str, float]]:
    """Returns what the rival laws and the registered baselines said of each target: method -> {target: loss}."""
    said: dict[str, dict[str, float]] = {}
    if study.is_fitted:
        for fit in study.fits if len(study.fits) > 1 else ():
            law = FittedLaw(fit)
            said[fit.law] = {
                t.name: float(law.predict(np.array([t.num_params]), np.array([t.num_tokens]))[0]) for t in study.targets
            }
    for name, (event, _) in study.results.forecasts.items():
        for method, loss in dict(event.get("baselines") or {}).items():
            said.setdefault(f"baseline {method}", {})[name] = float(loss)
    return said


def _levels(study: Study) -> "Figure":
    knob = varied_knob(study.results)
    if knob is None:
        raise NotThereYet("no learning rate, batch size or factor takes three levels at equal size and length")
    return level_figures.varied_levels(series_of(study.results, knob), knob.replace("_", " "), study.results.sizes)


def _time(study: Study) -> "Figure":
    figure = time_figure(study.results.directory)
    if figure is None:
        raise NotThereYet("no time was written down (runs/*/goodput.jsonl)")
    return figure


FIGURES: dict[str, Callable[[Study], Any]] = {
    "hero": _hero,
    "curves": _curves,
    "slices": _slices,
    "surface": _surface,
    "frontier": _frontier,
    "residuals": _residuals,
    "parameters": _parameters,
    "truth": _truth,
    "levels": _levels,
    "time": _time,
}
"""Name -> what draws it; `kleiber report DIR --figure NAME` writes one alone."""


def draw(study: Study, name: str) -> "Figure":
    """Returns the figure of that name.

    Raises:
      NotThereYet: the sweep has not made what it needs.
    """
    return FIGURES[name](study)


def png(figure: "Figure") -> bytes:
    """Returns a figure as a PNG file, the same bytes for the same data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def write_figure(directory: Path, name: str, out: Path) -> str:
    """Writes one figure of a sweep directory as a PNG, whole or not at all, and returns its claim.

    Raises:
      ValueError: `out` does not end in .png, or the sweep has not made what the figure needs.
      FileNotFoundError: no such sweep directory.
    """
    from kleiber.experiments.report.results import read_results
    from kleiber.files import write_whole

    if out.suffix != ".png":
        raise ValueError(f"--out {out}: expected a name ending in .png.")
    try:
        figure = draw(Study(read_results(directory)), name)
    except NotThereYet as gap:
        raise ValueError(f"figure {name} cannot be drawn from {directory}: {gap}.") from None
    write_whole(out, png(figure))
    return claim_of(figure)
