"""The figures of a report by name, each drawn from what a sweep directory holds."""

import io
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.experiments.answers.answer import Answer, Answers, answers_of
from kleiber.experiments.answers.sentences import at, says_interval
from kleiber.experiments.planning.varied import Factor, is_number, level_words
from kleiber.experiments.report.label_figure import label_figure, told_images
from kleiber.experiments.report.results import (
    MIN_LEVELS,
    SweepResults,
    curves_of,
    points_of,
    targets_of,
    trunks_with_curves,
)
from kleiber.experiments.report.time_spent import time_figure
from kleiber.scaling.figures import forecast as forecast_figures
from kleiber.scaling.figures import law as law_figures
from kleiber.scaling.figures import levels as level_figures
from kleiber.scaling.figures import runs as run_figures
from kleiber.scaling.figures.differences import Compared, differences_figure
from kleiber.scaling.figures.fitted import FittedLaw
from kleiber.scaling.figures.levels import Series
from kleiber.scaling.figures.study import ForecastRun, Points, cost_model
from kleiber.scaling.figures.style import claim_of
from kleiber.scaling.fitting.result import FitResult
from kleiber.scaling.forecasting.rolling import read_protection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_OF_CLAIM = 150
"""Characters of a figure's head, two lines of it."""
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

    @cached_property
    def answers(self) -> Answers:
        """What each factor does, in sentences."""
        results = self.results
        fits = self.fits if self.is_fitted else []
        return answers_of(results.experiment, results.records, results.directory, fits)

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
    if study.results.fit is None or not is_of_size_and_length(study):
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
    if reason := study.fits[0].optimum.get("withheld"):
        raise NotThereYet(f"the fit withholds how the best size grows with compute: {reason}")
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


def varied_knob(study: Study) -> Factor | None:
    """Returns the number whose best level the study tells first; None where none takes three levels."""
    ranked = [study.answers.study.factor(each.factor) for each in study.answers.answers]
    several = [each for each in ranked if each and len(each.levels) >= MIN_LEVELS and all(map(is_number, each.levels))]
    shape = ("d_model", "num_layers", "num_tokens", "epochs")
    return next((each for each in several if each.name not in shape), None)


def series_of(study: Study, knob: Factor) -> list[Series]:
    """Returns the measured runs grouped by size, length and all other factors, with their levels of a knob."""
    found, runs = study.answers.study, study.answers.study.in_order
    of_shape = {"d_model", "num_layers", "num_tokens", "epochs", knob.name}
    groups: dict[tuple, list[tuple[float, float]]] = {}
    lost = [run for run in found.lost if run.record["status"] != "failed"]
    for run in (*runs, *lost):
        panel = ", ".join(
            f"{each.name} {level_words(run.levels[each.name])}" for each in found.factors if each.name not in of_shape
        )
        key = (panel, float(run.record["num_params_total"]), float(run.record["num_tokens"]))
        groups.setdefault(key, []).append((float(run.levels[knob.name]), run.value))  # type: ignore[arg-type]
    series = []
    for key, pairs in groups.items():
        level, loss = np.array(sorted(pairs)).T
        is_measured = np.isfinite(loss)
        series.append(Series(*key, level[is_measured], loss[is_measured], level[~is_measured]))
    return [each for each in series if each.level.size]


def _levels(study: Study) -> "Figure":
    knob = varied_knob(study)
    if knob is None:
        raise NotThereYet("no number takes three levels at equal size and length")
    claim = _claim(study.answers.of(knob.name))
    words, unit, sizes = knob.name.replace("_", " "), study.answers.study.unit, study.results.sizes
    return level_figures.varied_levels(series_of(study, knob), words, sizes, claim, unit)


def _claim(*answers: Answer) -> str:
    """Returns the head of a figure: so much of answers, whole clauses from the beginning, as is read at a glance."""
    first, *more = "; ".join(each.sentence.split(". ")[0].rstrip(".") for each in answers).split("; ")
    while more and len(first) + len(more[0]) < MOST_OF_CLAIM:
        first += f"; {more.pop(0)}"
    return first[:1].upper() + first[1:]


def compared_answers(study: Study) -> list[Answer]:
    """Returns the answers of paired differences that no figure of levels shows: those asked for, or the first."""
    knob, shape = varied_knob(study), ("d_model", "num_layers", "num_tokens")
    paired = [each for each in study.answers.answers if each.effects and each.factor not in shape]
    paired = [each for each in paired if knob is None or each.factor != knob.name]
    return [each for each in paired if each in study.answers.answers[: study.answers.num_asked]] or paired[:1]


def leading_figures(study: Study) -> list[str]:
    """Returns the figures that answer, by the shape of the design: of forecasts, of a law, of a knob, of pairs."""
    names = ["hero"] if study.targets or study.results.experiment.get("laws", True) else []
    names += ["levels"] if varied_knob(study) else []
    names += ["differences"] if compared_answers(study) else []
    return names or ["hero"]


def is_of_size_and_length(study: Study) -> bool:
    """Returns whether the law knows size and length only, so that figures over both can show all of it."""
    return not study.is_fitted or set(study.fits[0].definition.variable_names) <= {"num_params_total", "num_tokens"}


def _differences(study: Study) -> "Figure":
    answers = compared_answers(study)
    if not answers:
        raise NotThereYet("no two runs differ in one factor alone")
    compared, runs = [], study.answers.study
    for answer, each in [(told, each) for told in answers for each in told.effects]:
        name = f"{level_words(each.level)} against {level_words(each.against)}"
        places: dict[str, list[float]] = {}
        for pair in each.pairs:  # of one factor a row for each place, of several one for each comparison
            row = at(pair.place) or "all runs" if len(answers) == 1 else f"{answer.factor} {name}"
            places.setdefault(row, []).append(pair.difference)
        compared.append(Compared(name, places, each.interval if says_interval(runs, each) else None))
    return differences_figure(compared, _claim(*answers), answers[0].unit)


def _time(study: Study) -> "Figure":
    shape = ("d_model", "num_layers", "num_tokens", "epochs")
    labels = {
        run.trunk: " ".join(
            [run.trunk.rsplit("-", 1)[0]]
            + [f"{name} {level_words(level)}" for name, level in run.levels.items() if name not in shape]
        )
        for run in study.answers.study.runs
    }
    figure = time_figure(study.results.directory, labels)
    if figure is None:
        raise NotThereYet("no time was written down (runs/*/goodput.jsonl)")
    return figure


def _labels(study: Study) -> "Figure":
    if not has_images(study.results.experiment):
        raise NotThereYet("its runs read no images")
    try:
        told = told_images(study.results.directory, study.results.records)
    except ValueError as problem:
        raise NotThereYet(str(problem)) from None
    if told is None:
        raise NotThereYet("no run has kept its weights (Experiment.keep_final)")
    return label_figure(told)


def has_images(experiment: dict[str, Any]) -> bool:
    """Returns whether the runs of an experiment, as experiment.json holds it, tell labels of images."""
    return any((trunk.get("model") or {}).get("image") for trunk in experiment.get("trunks", ()))


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
    "differences": _differences,
    "time": _time,
    "labels": _labels,
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
