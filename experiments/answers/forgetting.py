"""What going on with another text made runs forget, and what it costs to hold on to it: where runs are measured on the
text of their start besides (evaluation.also)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kleiber.experiments.answers.effects import interval
from kleiber.experiments.answers.study_runs import EPOCHS, StudyRun, StudyRuns
from kleiber.experiments.directory.record import FORGOTTEN
from kleiber.experiments.planning.varied import LENGTH, Level, level_words

Told = tuple[tuple[Level, ...], str, tuple[str, ...], tuple[str, ...]]
BySeed = dict[int, tuple[float, float]]
"""(What was forgotten, loss on the new text) by seed."""


def forgetting(experiment: dict[str, Any], study: StudyRuns) -> Told | None:
    """Returns (levels, the answer in a sentence, what each level forgets and costs in sentences, what to run next) of
    the factor that an experiment names (TrainConfig.factors), or of that of most levels, against its first level, at
    the longest runs; None where no run was measured on the text of its start."""
    column, factor = _column(study), _factor(experiment, study)
    if column is None or factor is None:
        return None
    by_level = _by_level(experiment, study, factor, column)
    (plain, before), *others = by_level.items()
    old, new = column.removeprefix(FORGOTTEN), str(study.runs[0].record["corpus"])
    plain_loses = _mean(lost for lost, _ in before.values())
    lines, means = [f"{level_words(plain)}: forgets {plain_loses} nats per token of {old}."], {}
    for level, found in others:
        seeds = sorted(before.keys() & found.keys())
        if seeds:
            kept = _mean(before[seed][0] - found[seed][0] for seed in seeds)
            cost = [found[seed][1] - before[seed][1] for seed in seeds]
            means[level] = _mean(found[seed][0] for seed in seeds), _worse(cost, new)
            what = f"forgets {means[level][0]}, which is {kept} less, and is {means[level][1]}"
            lines.append(f"{level_words(level)}: {what} (of {len(seeds)} seed{'s' * (len(seeds) > 1)}).")
    sentence = f"Going on with {new} forgets {plain_loses} {study.unit} of {old} with {factor} {level_words(plain)}"
    if means:
        best = min(means, key=lambda level: np.mean([lost for lost, _ in by_level[level].values()]))
        sentence += f"; with {level_words(best)} it forgets {means[best][0]} and is {means[best][1]}"
    needs = ("a second seed, so that what is forgotten has an interval",) if study.num_seeds == 1 else ()
    return tuple(by_level), f"{sentence}.", tuple(lines), needs


def _column(study: StudyRuns) -> str | None:
    """Returns the column of what was forgotten of another corpus than the one that runs go on with."""
    names = dict.fromkeys(n for run in study.runs for n in run.record if n.startswith(FORGOTTEN))
    return next((n for n in names if any(_has(run, n) for run in study.runs)), None)


def _has(run: StudyRun, column: str) -> bool:
    return run.record.get(column) is not None and column.removeprefix(FORGOTTEN) != run.record["corpus"]


def _factor(experiment: dict[str, Any], study: StudyRuns) -> str | None:
    own = _own_levels(experiment)
    factors = [each for each in study.factors if each.name not in (LENGTH, EPOCHS)]
    return next(iter(own), max(factors, key=lambda each: len(each.levels)).name if factors else None)


def _own_levels(experiment: dict[str, Any]) -> dict[str, list[Level]]:
    """Returns the levels of the factors that an experiment names, in the order of its trunks."""
    found: dict[str, list[Level]] = {}
    for trunk in experiment.get("trunks", ()):
        for name, level in trunk.get("factors", ()):
            found.setdefault(str(name), []).append(level)
    return found


def _by_level(experiment: dict[str, Any], study: StudyRuns, factor: str, column: str) -> dict[Level, BySeed]:
    """Returns what the longest runs of each level forgot, levels in the order of the experiment."""
    own = _own_levels(experiment).get(factor)
    levels = own or next(each.levels for each in study.factors if each.name == factor)
    longest = max(run.record["num_tokens"] for run in study.runs)
    found: dict[Level, BySeed] = {level: {} for level in levels}
    for run in study.runs:
        if run.record["num_tokens"] == longest and run.record.get(column) is not None:
            level = run.record[factor] if own else run.levels[factor]
            found.setdefault(level, {})[run.seed] = (run.record[column], run.value)
    return {level: by_seed for level, by_seed in found.items() if by_seed}


def _mean(values: Any) -> str:
    """Returns a mean, and half its t-interval over seeds where there are two or more."""
    array = np.array(list(values), np.float64)
    if len(array) < 2:
        return f"{array.mean():.3f}"
    low, high = interval(array)
    return f"{array.mean():.3f} ± {(high - low) / 2:.3f}"


def _worse(differences: Sequence[float], corpus: str) -> str:
    """Returns by how much a loss is above that of the first level."""
    is_worse = float(np.mean(differences)) > 0
    return (
        f"{_mean(each if is_worse else -each for each in differences)} {'worse' if is_worse else 'better'} on {corpus}"
    )
