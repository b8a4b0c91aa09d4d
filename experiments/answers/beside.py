"""What an answer says besides the effect: which levels ended without a loss, and what changed with the factor."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from kleiber.experiments.answers.best import Place
from kleiber.experiments.answers.sentences import MOST_PLACES, at, listing
from kleiber.experiments.answers.study_runs import OF_A_STEP, StudyRun, StudyRuns
from kleiber.experiments.planning.varied import Factor, Level, level_words

INHERENT = {
    "model.d_model": ("num_heads", "num_kv_heads", "d_ff"),
    "data.tokenizer": ("vocab_size",),
}
"""Fields that belong to another, and change with it as a rule."""


def untold(study: StudyRuns, factor: Factor) -> str:
    """Returns what can be said of a factor of which no two levels can be compared."""
    measured = [level for level in factor.levels if any(run.levels[factor.name] == level for run in study.runs)]
    if len(measured) != 1:
        return f"{factor.name}: no two runs differ in it alone, so its effect cannot be told."
    mean = np.mean([run.value for run in study.runs])
    return f"{factor.name}: only {level_words(measured[0])} came to a loss, {mean:.4f} {study.unit} on average."


def with_it(study: StudyRuns, factor: Factor) -> list[str]:
    """Returns what belongs into the answer of a factor besides its effect: which of its levels ended without a loss
    more often than others, and what changed with it, so that nobody can tell which of them does it."""
    said = []
    total = Counter(run.levels[factor.name] for run in (*study.runs, *study.lost))
    for status, words in (("diverged", "diverged"), ("pruned", "cut early")):
        ended: dict[Level, list[Place]] = {}
        for run in study.lost:
            if run.record["status"] == status:
                place = tuple((name, level) for name, level in run.levels.items() if name != factor.name)
                ended.setdefault(run.levels[factor.name], []).append(place)
        if len({len(ended.get(level, ())) / total[level] for level in total}) > 1:
            alike: dict[str, list[Level]] = {}
            for level in (each for each in factor.levels if each in ended):
                alike.setdefault(f"{words} in {_where(total[level], ended[level])}", []).append(level)
            said += [f"{listing(map(level_words, levels))} {how}" for how, levels in alike.items()]
    inherent = {name for path in (factor.path, *factor.goes_with) for name in INHERENT.get(path, ())}
    fields = [name for name in _goes_with(factor) if name not in inherent]
    seeds = {level: {run.seed for run in study.runs if run.levels[factor.name] == level} for level in factor.levels}
    if len(seeds) > 1 and all(len(each) == 1 for each in seeds.values()) and len(set().union(*seeds.values())) > 1:
        fields.append("seed")
    if fields and study.runs:
        told = (_with_levels(study, factor, name) for name in fields)
        said.append(f"{listing(told)} changed with it, and which of them does it cannot be told")
    steps = {run.record.get("num_steps") for run in study.runs}
    if factor.path in OF_A_STEP and study.length is None and len(steps) > 1:
        said.append(f"it also sets {_with_levels(study, factor, 'num_steps')}, which may be why")
    return said


def _where(total: int, places: Sequence[Place]) -> str:
    """Returns `2 of 4 runs (d_model 32)`: how many, and the levels that all of them share."""
    shared = [each for each in places[0] if all(each in place for place in places)]
    return f"{len(places)} of {total} runs" + (f" ({at(shared)})" if shared and len(places) < total else "")


def _with_levels(study: StudyRuns, factor: Factor, name: str) -> str:
    """Returns the name of a field that goes with a factor, and its level at each level of the factor if few."""
    levels = {run.levels[factor.name]: run.record.get(name) for run in study.in_order}
    if None in levels.values() or len(levels) > MOST_PLACES:
        return name
    return f"{name} ({listing(f'{level_words(v)} at {level_words(level)}' for level, v in levels.items())})"


def _goes_with(factor: Factor) -> list[str]:
    """Returns the names of the fields that change with a factor, but for other names of its own."""
    fields = [name for name in factor.goes_with if "." not in name]
    return [name for name in fields if name not in (factor.name, "tokenizer") or "tokenizer" not in factor.name]


def other_scales(study: StudyRuns, factor: Factor) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Returns (sentence, basis, next) on levels whose runs were scored on texts or by tasks of their own."""
    fields = listing(factor.scales)
    of_text = factor.scales == ["data.corpus"]
    means = {v: [run.value for run in study.runs if run.levels[factor.name] == v] for v in factor.levels}
    said = listing(f"{level_words(level)} {np.mean(values):.3f}" for level, values in means.items() if values)
    what = "each level is scored on its own text" if of_text else "each level is scored by a task of its own"
    sentence = f"{factor.name}: {what} ({fields}), so that their losses ({said} on average) cannot be compared."
    advice = "kleiber eval RUN --text FILE, with one text for the kept weights of all" if of_text else ""
    basis = f"A {'text' if of_text else 'task'} that is easier gives any model a lower loss."
    return sentence, (basis,), (advice,) if advice else ()


def company(study: StudyRuns, factor: Factor) -> list[str]:
    """Returns what else changed with a factor: fields that go with it, parameters, the amount of text."""
    lines: list[str] = []
    if factor.name in ("d_model", "num_layers") or not study.runs:
        return lines
    if fields := _goes_with(factor):
        lines.append(f"Changed with {factor.name}, and not told apart from it: {listing(fields)}.")
    places: dict[tuple[Place, int], list[StudyRun]] = {}
    for run in study.runs:
        place = tuple((name, level) for name, level in run.levels.items() if name != factor.name)
        places.setdefault((place, run.seed), []).append(run)
    whole = [each for each in places.values() if len(each) == max(map(len, places.values()))]
    alike = [run for each in whole for run in each]  # else other sizes at one level would count as its doing
    means = {level: [run.record for run in alike if run.levels[factor.name] == level] for level in factor.levels}
    params = {
        level: np.exp(np.mean([np.log(r["num_params_total"]) for r in rows])) for level, rows in means.items() if rows
    }
    if len(params) > 1 and max(params.values()) > 1.005 * min(params.values()):
        said = listing(f"{level_words(level)} {p:,.0f}" for level, p in params.items())
        lines.append(f"Parameters differ too (geometric means, by {factor.name}): {said}.")
    if study.unit == "bits per byte" and any("tokenizer" in w for w in (factor.name, *factor.goes_with)):
        text = {
            level: np.mean([r["num_tokens"] * r["loss"] / math.log(2) / r["bits_per_byte"] for r in rows])
            for level, rows in means.items()
            if rows
        }
        said = listing(f"{level_words(level)} {t:,.0f}" for level, t in text.items())
        lines.append(f"Trained on about so many bytes of text: {said}.")
        scored = {r.get("num_validation_bytes") for rows in means.values() for r in rows}
        lines.append(
            f"All are scored on the same {next(iter(scored)):,} bytes of text."
            if len(scored) == 1 and None not in scored
            else "They are not known to be scored on the same text: measure again with this release to be sure."
        )
    return lines
