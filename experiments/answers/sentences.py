"""The words of an answer; every number is taken from the paired differences and the best levels."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from kleiber.experiments.answers.best import BestLevels, Place
from kleiber.experiments.answers.effects import (
    MOST_PAIRS,
    Effect,
    differs_by_place,
    pairs_to_tell,
    seed_noise,
    t_value,
    tuned_factors,
)
from kleiber.experiments.answers.study_runs import EPOCHS, StudyRuns
from kleiber.experiments.planning.varied import Factor, Level, is_number, level_words

MOST_PLACES = 4
"""Combinations that a sentence names one by one; of more it says the range."""


def listing(words: Iterable[str]) -> str:
    """Returns `a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def size(difference: float) -> str:
    """Returns the size of a difference, to three digits after the point or the first that says something."""
    return f"{abs(difference):.{3 if abs(difference) >= 0.0095 else 4}f}"


def at(place: Iterable[tuple[str, Level]]) -> str:
    """Returns `d_model 32, batch_size 2`."""
    return ", ".join(f"{name} {level_words(level)}" for name, level in place)


def effect_sentence(study: StudyRuns, factor: Factor, effects: Sequence[Effect]) -> str:
    """Returns what each level costs against the one it is compared with."""
    return f"{factor.name}: {'; '.join(_effect_clause(study, each) for each in effects)}."


def _effect_clause(study: StudyRuns, found: Effect) -> str:
    names = f"{level_words(found.level)}", f"{level_words(found.against)}"
    verb = "costs" if found.mean > 0 else "saves"
    if not _says_interval(study, found):
        return f"{names[0]} {_place_by_place(study, found)} {study.unit} against {names[1]}"
    low, high = found.interval or (0.0, 0.0)
    clause = f"{names[0]} {verb} {size(found.mean)} ± {size((high - low) / 2)} {study.unit} against {names[1]}"
    if found.is_seen:
        return clause
    return f"{clause}: cannot be told from none ({found.num_units} pairs, {2 * found.num_units} runs)"


def _says_interval(study: StudyRuns, found: Effect) -> bool:
    """Returns whether one interval answers: it does with seeds, unless they tell that the difference is another from
    place to place, and where pairs of one seed differ in sign."""
    if found.interval is None or differs_by_place(study, found):
        return False
    return study.num_seeds > 1 or len({d > 0 for d in found.places.values()}) > 1


def _place_by_place(study: StudyRuns, found: Effect) -> str:
    """Returns `saves 0.255 (d_model 32) and 0.169 (d_model 64)`, by ranges where there are many places; with the
    interval of each where seeds give their noise."""
    said = []
    noise, degrees = seed_noise(study)
    seeds = Counter(pair.place for pair in found.pairs)

    def amount(place: Place) -> str:
        half = t_value(degrees) * noise * math.sqrt(2 / seeds[place]) if degrees else 0.0
        return size(found.places[place]) + (f" ± {size(half)}" if degrees else "")

    for verb, chosen in (("saves", lambda d: d <= 0), ("costs", lambda d: d > 0)):
        here = {place: each for place, each in found.places.items() if chosen(each)}
        if not here:
            continue
        if len(here) > MOST_PLACES:
            amounts = sorted(abs(each) for each in here.values())
            said.append(f"{verb} {size(amounts[0])} to {size(amounts[-1])} at {len(here)} combinations")
            continue
        names = short_places(list(here), list(found.places))
        said.append(f"{verb} {listing(amount(p) + (names[p] and f' ({names[p]})') for p in here)}")
    return " and ".join(said)


def short_places(wanted: Sequence[Place], all_places: Sequence[Place]) -> dict[Place, str]:
    """Returns each place without the levels that all places share."""
    same = set.intersection(*map(set, all_places)) if len(all_places) > 1 else set()
    return {place: at(each for each in place if each not in same) for place in wanted}


def effect_basis(study: StudyRuns, factor: Factor, effects: Sequence[Effect]) -> list[str]:
    """Returns how sure effects are, and from what."""
    lines = []
    tuned = [each.name for each in tuned_factors(study)]
    noise, degrees = seed_noise(study)
    most = max(each.num_units for each in effects)
    if degrees:
        lines.append(
            f"± is the 95 % interval of {most} paired differences, alike in everything else, seeds included; one run "
            f"varies by {size(noise)} between seeds ({degrees} degrees of freedom)."
        )
    else:
        smallest = min((abs(each) for e in effects for each in e.places.values()), default=0.0)
        lines.append(unmeasured(smallest, f"the smallest difference of {factor.name},"))
        if any(_says_interval(study, each) for each in effects):
            lines.append("An interval from one seed holds the noise and what the other factors change alike.")
    if tuned and all(name not in dict(place) for e in effects for place in e.places for name in tuned):
        lines.append(
            f"Each level is taken at its best {listing(tuned)} of those tried; where that is the largest or the "
            "smallest, the level may do better than it did here."
        )
    return lines


def seeds_sentence(study: StudyRuns) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Returns (sentence, basis, next) on runs that differ in nothing but the seed: their mean, and the noise of one."""
    from scipy.special import chdtri

    noise, degrees = seed_noise(study)
    values = np.array([run.value for run in study.runs])
    if not degrees:
        return (
            f"{len(values)} runs, none repeated with another seed: the noise of a run is not measured."
            if study.factors
            else f"one run: {values[0]:.4f} {study.unit}; nothing varies, so there is nothing to compare."
        ), (), ("two more seeds of every run (seed=1 and seed=2), so that their spread gives the noise.",)  # fmt: skip
    low, high = noise * np.sqrt(degrees / chdtri(degrees, np.array([0.025, 0.975])))
    sentence = (
        f"seed: one run varies by {size(noise)} [{size(low)}, {size(high)}] {study.unit} between seeds (one standard "
        f"deviation with its 95 % interval, {degrees} degrees of freedom), {noise / values.mean():.2%} of the loss"
    )
    if not study.factors:
        half = t_value(degrees) * noise / math.sqrt(len(values))
        sentence = f"{len(values)} seeds: {values.mean():.4f} ± {size(half)} {study.unit} on average; {sentence}"
    told = f"Two single runs have to differ by {size(t_value(degrees) * noise * math.sqrt(2))} before it counts."
    return f"{sentence}.", (told,), ()


def unmeasured(difference: float, words: str) -> str:
    """Returns how little runs would have to vary for a difference of one seed to stand."""
    return (
        f"One seed, so the noise of a run is not measured: {words} {size(difference)} stands only if runs repeat "
        f"within about {size(difference / (2 * math.sqrt(2)))} (one standard deviation)."
    )


def company(study: StudyRuns, factor: Factor) -> list[str]:
    """Returns what else changed with a factor: fields that go with it, parameters, the amount of text."""
    lines: list[str] = []
    fields = [name for name in factor.goes_with if "." not in name]
    if factor.name in ("d_model", "num_layers") or not study.runs:
        return lines
    fields = [name for name in fields if name not in (factor.name, "tokenizer") or "tokenizer" not in factor.name]
    if fields:
        lines.append(f"Changed with {factor.name}, and not told apart from it: {listing(fields)}.")
    means = {level: [run.record for run in study.runs if run.levels[factor.name] == level] for level in factor.levels}
    params = {
        level: np.exp(np.mean([np.log(r["num_params_total"]) for r in rows])) for level, rows in means.items() if rows
    }
    if len(params) > 1 and max(params.values()) > 1.005 * min(params.values()):
        said = listing(f"{level_words(level)} {p:,.0f}" for level, p in params.items())
        lines.append(f"Parameters differ too (geometric means): {said}.")
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


def next_runs(study: StudyRuns, factor: Factor, effects: Sequence[Effect], best: BestLevels | None) -> list[str]:
    """Returns what to run next to be sure."""
    lines = []
    found = best.places.values() if best else ()
    edges = {float(each.level) for each in found if each.is_at_edge and is_number(each.level)}  # type: ignore[arg-type]
    numbers = [float(level) for level in factor.levels if is_number(level) and level]  # type: ignore[arg-type]
    for level in sorted(edges):
        if len(numbers) > 1 and factor is not study.length:
            is_top = level == max(numbers)
            near = sorted(numbers, key=lambda other: abs(math.log(other / level)))[1]
            beyond = f"{level * (level / near):.3g}"
            end = "largest" if is_top else "smallest"
            lines.append(f"{factor.name} {beyond}, as the best, {level_words(level)}, is the {end} tried.")
    if factor.name == EPOCHS or "num_unique_tokens" in (factor.name, *factor.goes_with):
        lines += _fresh(study)
    if not effects and not (best and best.places):
        lines.append(f"two runs alike in everything but {factor.name}, seed included.")
    if study.num_seeds == 1:
        lines.append(
            "two more seeds of every run (seed=1 and seed=2 beside seed=0), so that their spread gives the noise."
        )
    for each in effects if study.num_seeds > 1 else ():
        if each.is_seen is False and each.mean and each.interval:
            pairs = pairs_to_tell(each)
            if pairs <= MOST_PAIRS:
                lines.append(
                    f"{pairs} pairs in place of {each.num_units} (more seeds), to tell a difference as small as "
                    f"{size(each.mean)} of {factor.name} {level_words(each.level)}."
                )
            else:
                lines.append(
                    f"nothing more, unless a difference below {size(max(map(abs, each.interval)))} matters: "
                    f"{4 * each.num_units} pairs would halve the interval of {factor.name} {level_words(each.level)}."
                )
    return lines


def _fresh(study: StudyRuns) -> list[str]:
    """Returns the runs on fresh text that are missing to say what repeats cost."""
    repeated = {r.record["num_tokens"] for r in study.runs if (r.record.get("epochs") or 0) > 1.01}
    fresh = {r.record["num_tokens"] for r in study.runs if (r.record.get("epochs") or 0) <= 1.01}
    missing = sorted(repeated - fresh)
    if not missing:
        return []
    lengths = listing(f"{tokens:,}" for tokens in missing)
    return [
        f"the same model on {lengths} tokens of fresh text (data.num_unique_tokens=None): there is no fresh-data line "
        "to compare with, so what repeats cost against fresh text cannot be told."
    ]
