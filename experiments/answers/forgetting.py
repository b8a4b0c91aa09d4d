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


def forgetting(experiment: dict[str, Any], study: StudyRuns) -> Told | None:
    """Returns (levels, the answer in a sentence, what each level forgets and costs in sentences, what to run next) of
    the factor that an experiment names (TrainConfig.factors), or of that of most levels, against its first level, at
    the longest runs; None where no run was measured on the text of its start."""
    named = [str(name) for trunk in experiment.get("trunks", ()) for name, _ in trunk.get("factors", ())]
    factors = [each for each in study.factors if each.name not in (LENGTH, EPOCHS)]
    factor = named[0] if named else max(factors, key=lambda each: len(each.levels)).name if factors else None
    names = dict.fromkeys(n for r in study.runs for n in r.record if n.startswith(FORGOTTEN))
    corpora = [n for n in names if any(r.record.get(n) is not None and _is_another(r, n) for r in study.runs)]
    if factor is None or not corpora:
        return None
    column, longest = corpora[0], max(run.record["num_tokens"] for run in study.runs)
    by_level: dict[Level, dict[int, tuple[float, float]]] = {level: {} for level in _levels(experiment, study, factor)}
    for run in study.runs:
        if run.record["num_tokens"] == longest and run.record.get(column) is not None:
            level = run.record[factor] if named else run.levels[factor]
            by_level.setdefault(level, {})[run.seed] = (run.record[column], run.value)
    by_level = {level: found for level, found in by_level.items() if found}
    plain, *others = by_level
    old = column.removeprefix(FORGOTTEN)
    new = next(str(run.record["corpus"]) for run in study.runs)
    before = by_level[plain]
    lines = [f"{level_words(plain)}: forgets {_mean([lost for lost, _ in before.values()])} nats per token of {old}."]
    for level in others:
        shared = sorted(before.keys() & by_level[level].keys())
        if not shared:
            continue
        kept = [before[seed][0] - by_level[level][seed][0] for seed in shared]
        costs = [by_level[level][seed][1] - before[seed][1] for seed in shared]
        lost = _mean([by_level[level][seed][0] for seed in shared])
        what = f"forgets {lost}, {_mean(kept)} less, and is {_mean(costs, True)} on {new}"
        lines.append(f"{level_words(level)}: {what} (of {len(shared)} seed{'s' * (len(shared) > 1)}).")
    means = {level: float(np.mean([lost for lost, _ in found.values()])) for level, found in by_level.items()}
    best = min(means, key=lambda level: means[level])
    sentence = (
        f"Going on with {new} forgets {means[plain]:+.3f} nats per token of {old} with {factor} {level_words(plain)}"
    )
    if best != plain:
        cost = np.mean([v for _, v in by_level[best].values()]) - np.mean([v for _, v in before.values()])
        sentence += f"; {factor} {level_words(best)} leaves {means[best]:+.3f} of that and costs {cost:+.3f} on {new}"
    needs = ("a second seed, so that what is forgotten has an interval",) if study.num_seeds == 1 else ()
    return tuple(by_level), f"{sentence}.", tuple(lines), needs


def _levels(experiment: dict[str, Any], study: StudyRuns, factor: str) -> Sequence[Level]:
    """Returns the levels of a factor in the order of the experiment's trunks."""
    own = [
        level for trunk in experiment.get("trunks", ()) for name, level in trunk.get("factors", ()) if name == factor
    ]
    return tuple(own) or next(each.levels for each in study.factors if each.name == factor)


def _is_another(run: StudyRun, column: str) -> bool:
    """Returns whether the corpus of a column is another than the one that a run goes on with."""
    return column.removeprefix(FORGOTTEN) != run.record["corpus"]


def _mean(values: Sequence[float], is_cost: bool = False) -> str:
    """Returns a mean and its t-interval over seeds, where there are two or more."""
    array = np.asarray(values, np.float64)
    word = f" {'worse' if array.mean() > 0 else 'better'}" if is_cost else ""
    mean = abs(array.mean()) if is_cost else array.mean()
    if len(array) < 2:
        return f"{mean:.3f}{word}"
    low, high = interval(array)
    return f"{mean:.3f} ± {(high - low) / 2:.3f}{word}"
