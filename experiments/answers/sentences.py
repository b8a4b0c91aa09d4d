"""The words of an answer; every number is taken from the paired differences and the best levels."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from kleiber.experiments.answers.best import Place
from kleiber.experiments.answers.effects import (
    FEW_PAIRS,
    Effect,
    differs_by_place,
    effect,
    half_intervals,
    seed_noise,
    t_value,
    tuned_factors,
)
from kleiber.experiments.answers.study_runs import StudyRuns
from kleiber.experiments.planning.varied import Factor, Level, is_number, level_words

MOST_PLACES = 4
"""Combinations that a sentence names one by one; of more it says the range."""
MORE_SEEDS = "two more seeds of every run (seed=1 and seed=2 beside seed=0), so that their spread gives the noise."


def listing(words: Iterable[str]) -> str:
    """Returns `a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def size(difference: float) -> str:
    """Returns the size of a difference, to three digits after the point or the first that says something."""
    return f"{abs(difference):.{3 if abs(difference) >= 0.0095 else 4}f}"


def span(differences: Iterable[float]) -> str:
    """Returns `0.013 to 0.024`, or one size where both ends read alike."""
    sizes = sorted(map(abs, differences))
    low, high = size(sizes[0]), size(sizes[-1])
    return low if low == high else f"{low} to {high}"


def at(place: Iterable[tuple[str, Level]]) -> str:
    """Returns `d_model 32, batch_size 2`."""
    return ", ".join(f"{name} {level_words(level)}" for name, level in place)


def effect_sentence(study: StudyRuns, factor: Factor, effects: Sequence[Effect]) -> str:
    """Returns what each level costs against the one it is compared with."""
    return f"{factor.name}: {'; '.join(effect_clause(study, factor, each) for each in effects)}."


def _each_at_its_best(study: StudyRuns, factor: Factor, found: Effect, names: Sequence[str]) -> str:
    """Returns what a level does where each has the best of the optimizer's numbers tried; nothing where none flips."""
    numbers = {name for name in names if (each := study.factor(name)) and each.path.startswith("optimizer.")}
    numbers = {name for name in numbers if all(map(is_number, study.factor(name).levels))}  # type: ignore[union-attr]
    best = effect(study, factor, found.level, found.against, numbers) if numbers else None
    if best is None or factor.path.startswith("optimizer.") and all(map(is_number, factor.levels)):
        return ""
    verb, half = "costs" if best.mean > 0 else "saves", best.interval and (best.interval[1] - best.interval[0]) / 2
    amount = f"{size(best.mean)} ± {size(half)}" if half else size(best.mean)
    return f"; each at its best {listing(sorted(numbers))} of those tried, {level_words(found.level)} {verb} {amount}"


def effect_clause(study: StudyRuns, factor: Factor, found: Effect) -> str:
    """Returns what one level costs against another: `256 costs 0.112 ± 0.033 nats per token against 64`."""
    names = f"{level_words(found.level)}", f"{level_words(found.against)}"
    mean = f"{'costs' if found.mean > 0 else 'saves'} {size(found.mean)}"
    unseen = f": cannot be told from none ({found.num_units} pairs, {2 * found.num_units} runs)"
    if says_interval(study, found):
        low, high = found.interval or (0.0, 0.0)
        clause = f"{names[0]} {mean} ± {size((high - low) / 2)} {study.unit} against {names[1]}"
        return clause if found.is_seen else clause + unseen
    said, names_of_flip = _place_by_place(study, found)
    clause = f"{names[0]} {said} {study.unit} against {names[1]}"
    if names_of_flip:
        clause = f"which is better depends on {listing(names_of_flip)}: {clause}"
        clause += _each_at_its_best(study, factor, found, names_of_flip)
    elif found.differs and (others := _varied(_told_places(study, found))):
        clause = f"what it does depends on {listing(others)}: {clause}"
    if study.num_seeds == 1 and found.interval and len({d > 0 for d in found.places.values()}) > 1:
        half = (found.interval[1] - found.interval[0]) / 2
        clause += f"; on average it {mean} ± {size(half)}{'' if found.is_seen else unseen}"
    return clause


def says_interval(study: StudyRuns, found: Effect) -> bool:
    """Returns whether one interval answers: it does with seeds, unless they tell that the difference is another from
    place to place."""
    return found.interval is not None and study.num_seeds > 1 and not differs_by_place(study, found.pairs)


def _place_by_place(study: StudyRuns, found: Effect) -> tuple[str, list[str]]:
    """Returns (`saves 0.255 (d_model 32) and 0.169 (d_model 64)`, the factors that tell which of the two it does, where
    seeds show that it does both).

    It says the mean at each level of the factor that tells most, where places are many or seeds tell no more than
    that; else ranges of many. Seeds give intervals.
    """
    places = _told_places(study, found)
    half, _ = half_intervals(study, places)
    means = {place: float(np.mean(differences)) for place, differences in places.items()}
    said, names = [], short_places(list(means), list(means))
    untold = {place: mean for place, mean in means.items() if abs(mean) <= half[place]}
    for verb, chosen in (("saves", lambda d: d <= 0), ("costs", lambda d: d > 0)):
        here = {place: each for place, each in means.items() if chosen(each) and place not in untold}
        if len(here) > MOST_PLACES:
            said.append(f"{verb} {span(here.values())} at {len(here)} combinations")
        elif here:
            amounts_of = {p: size(d) + (f" ± {size(half[p])}" if half[p] else "") for p, d in here.items()}
            said.append(f"{verb} {listing(each + (names[p] and f' ({names[p]})') for p, each in amounts_of.items())}")
    if untold:
        nothing = {p: f"{'costs' if d > 0 else 'saves'} {size(d)} ± {size(half[p])}" for p, d in untold.items()}
        told = listing((names[p] and f"{names[p]}: ") + each for p, each in nothing.items())
        said.append(f"has an effect that cannot be told from none ({told})")
    seen = {place: mean > 0 for place, mean in means.items() if half[place] and place not in untold}
    if len(set(seen.values())) < 2:
        return " and ".join(said), []
    others = list(dict.fromkeys(name for place in seen for name, _ in place))
    telling = [n for n in others if len({(dict(p)[n], s) for p, s in seen.items()}) == len({dict(p)[n] for p in seen})]
    return " and ".join(said), telling[:1] or others


def _varied(places: Iterable[Place]) -> list[str]:
    """Returns the factors in whose levels places differ."""
    levels: dict[str, set[Level]] = {}
    for place in places:
        for name, level in place:
            levels.setdefault(name, set()).add(level)
    return [name for name, each in levels.items() if len(each) > 1]


def _told_places(study: StudyRuns, found: Effect) -> dict[Place, list[float]]:
    return _most_telling(study, found) or _differences(found, None)


def _differences(found: Effect, name: str | None) -> dict[Place, list[float]]:
    """Returns the differences of the pairs at each place, or at each level of one other factor."""
    places: dict[Place, list[float]] = {}
    for pair in found.pairs:
        place = tuple(each for each in pair.place if name in (None, each[0]))
        places.setdefault(place, []).append(pair.difference)
    return places


def _most_telling(study: StudyRuns, found: Effect) -> dict[Place, list[float]]:
    """Returns the differences at each level of the factor over whose levels they vary most; {} where none has so few
    levels that they can be named, or few places are better named one by one."""

    def range_of(places: dict[Place, list[float]]) -> float:
        means = [float(np.mean(each)) for each in places.values()]
        return max(means) - min(means)

    by_name = {name: _differences(found, name) for name, _ in found.pairs[0].place}
    by_name = {name: places for name, places in by_name.items() if 1 < len(places) <= MOST_PLACES}
    best = max(by_name, key=lambda name: range_of(by_name[name]), default="")
    if len(found.places) > MOST_PLACES or not by_name:
        return by_name.get(best, {})
    rest = ([p for p in found.pairs if each in p.place] for place in by_name[best] for each in place)
    tells_all = study.num_seeds > 1 and not any(differs_by_place(study, pairs) for pairs in rest)
    return by_name[best] if tells_all else {}


def short_places(wanted: Sequence[Place], all_places: Sequence[Place]) -> dict[Place, str]:
    """Returns each place without the levels that all places share."""
    same = set.intersection(*map(set, all_places)) if len(all_places) > 1 else set()
    return {place: at(each for each in place if each not in same) for place in wanted}


def effect_basis(study: StudyRuns, factor: Factor, effects: Sequence[Effect]) -> list[str]:
    """Returns how sure effects are, and from what."""
    lines = []
    noise, degrees = seed_noise(study)
    most = max(each.num_units for each in effects)
    if degrees:
        few = "" if most >= FEW_PAIRS else ", from the noise of seeds, as so few pairs say little of their own"
        what = f"{most} paired differences, alike in everything else, seeds included{few}"
        by_place = [each for each in effects if not says_interval(study, each)]
        if by_place:
            pooled = half_intervals(study, _told_places(study, by_place[0]))[1]
            what = "the paired differences at each place, seeds included"
            what += f", whose spread is pooled ({pooled} degrees of freedom)" if pooled else ", from the noise of seeds"
        if all(pair.seed is None for each in effects for pair in each.pairs):
            what = "the difference of means, from the noise of seeds, as no two levels share a seed"
        lines.append(
            f"± is the 95 % interval of {what}; one run varies by {size(noise)} between seeds ({degrees} degrees of "
            "freedom)."
        )
    else:
        smallest = min((abs(each) for e in effects for each in e.places.values()), default=0.0)
        lines.append(unmeasured(smallest, f"the smallest difference of {factor.name},"))
        if any(each.interval and len({d > 0 for d in each.places.values()}) > 1 for each in effects):
            lines.append("An interval from one seed holds the noise and what the other factors change alike.")
    return lines + at_the_best_of(study, factor, [place for each in effects for place in each.places])


def at_the_best_of(study: StudyRuns, factor: Factor, places: Iterable[Place]) -> list[str]:
    """Returns a line on the numbers of the optimizer that each level is taken at the best of: those no place names."""
    named = {factor.name, *(name for place in places for name, _ in place)}
    tuned = [each.name for each in tuned_factors(study) if each.name not in named]
    if not tuned:
        return []
    return [
        f"Each level is taken at its best {listing(tuned)} of those tried; where that is the largest or the smallest, "
        "the level may do better than it did here."
    ]


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
        ), (), (MORE_SEEDS,)  # fmt: skip
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
