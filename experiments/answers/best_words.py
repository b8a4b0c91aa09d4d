"""The words on the best level of a factor: where it lies, how far it leads, how it moves with the others."""

from collections.abc import Mapping

from kleiber.experiments.answers.best import Best, BestLevels, Place
from kleiber.experiments.answers.effects import effect, seed_noise
from kleiber.experiments.answers.sentences import (
    MOST_PLACES,
    at,
    at_the_best_of,
    effect_clause,
    listing,
    short_places,
    size,
    span,
    unmeasured,
)
from kleiber.experiments.answers.study_runs import StudyRuns
from kleiber.experiments.planning.varied import Factor, Level, level_words

MOST_NAMED = 8
"""Combinations with a best level of their own that are named one by one."""


def best_sentence(study: StudyRuns, factor: Factor, best: BestLevels) -> str:
    """Returns the best level at every combination, and how it moves."""
    if best.untold:
        levels, (difference, reach) = listing(map(level_words, factor.levels)), best.untold
        return (
            f"{factor.name}: {levels} cannot be told apart: no two differ by more than {size(difference)} ± "
            f"{size(reach)} {study.unit} ({len(study.runs)} runs)."
        )
    parts = _tied(study, factor, best) or _leading(study, factor, best)
    for each in best.moves:
        by = f"× {each.found.factor:.2f}"
        if each.found.interval:
            by += f" [{each.found.interval[0]:.2f}, {each.found.interval[1]:.2f}]"
        ends = f"from {each.other} {level_words(each.ends[0])} to {level_words(each.ends[1])}"
        if each.found.is_seen:
            parts.append(f"it moves by {by} {ends}")
        elif each.found.is_seen is None:
            parts.append(f"by parabola {by} {ends}, and nothing here says how sure that is")
        else:
            parts.append(f"no move with {each.other} can be told ({by} {ends})")
    return "; ".join(parts) + "."


def _tied(study: StudyRuns, factor: Factor, best: BestLevels) -> list[str]:
    """Returns, where no lead is more than the noise of seeds, which levels share the best and what the others cost."""
    if not all(each.is_tied for each in best.places.values()):
        return []
    means = {level: [r.value for r in study.runs if r.levels[factor.name] == level] for level in factor.levels}
    top = min((level for level in means if means[level]), key=lambda level: sum(means[level]) / len(means[level]))
    effects = [each for level in factor.levels if level != top and (each := effect(study, factor, level, top))]
    worse = [each for each in effects if each.is_seen and each.mean > 0]
    tied = [level for level in factor.levels if level not in {each.level for each in worse}]
    if not worse or len(tied) < 2:
        return []
    if len(worse) <= MOST_PLACES:
        costs = [effect_clause(study, factor, each) for each in worse]
    else:
        costs = [f"the others cost {span(each.mean for each in worse)} {study.unit} against {level_words(top)}"]
    return [f"best {factor.name}: {' or '.join(map(level_words, tied))}, which cannot be told apart", *costs]


def _leading(study: StudyRuns, factor: Factor, best: BestLevels) -> list[str]:
    """Returns the best level at every combination, by how much it leads, and whether it lies at an end."""
    parts = [f"best {factor.name}: {_levels_by_place(best.places)}"]
    if len({each.level for each in best.places.values()}) == 1:
        seconds = {level_words(each.second) for each in best.places.values()}
        over = seconds.pop() if len(seconds) == 1 else "the second"
        amount = span(each.lead for each in best.places.values())
        reach = max(each.reach for each in best.places.values())
        parts.append(f"it leads {over} by {amount}{f' ± {size(reach)}' if reach else ''} {study.unit}")
    for level, end in dict.fromkeys((each.level, each.edge) for each in best.places.values() if each.edge):
        parts.append(f"{level_words(level)} is the {end} tried, so that the best may lie beyond")
    tied = [place for place, each in best.places.items() if each.is_tied]
    if tied:
        where = "" if len(tied) == len(best.places) else f" at {' and '.join(map(at, tied))}"
        parts.append(f"its lead over the second is within the noise of seeds{where}")
    return parts


def _levels_by_place(places: Mapping[Place, Best]) -> str:
    """Returns `0.008 at batch_size 2, 0.016 at batch_size 8, at every d_model`: by the one factor that tells it."""
    names = list(dict.fromkeys(name for place in places for name, _ in place))
    found = {best.level for best in places.values()}
    if len(found) == 1:
        levels = listing(level_words(level) for place in places for _, level in place) if len(names) == 1 else ""
        everywhere = f"at every {names[0]} ({levels})" if levels else f"at all {len(places)} combinations of "
        everywhere += "" if levels or not names else listing(names)
        everywhere = everywhere if len(places) > 1 else f"at {at(next(iter(places)))}"
        return level_words(found.pop()) + (f" {everywhere}" if names else "")
    for name in names:
        by_level: dict[Level, set[Level]] = {}
        for place, best in places.items():
            by_level.setdefault(dict(place)[name], set()).add(best.level)
        if all(len(each) == 1 for each in by_level.values()):
            groups: dict[Level, list[str]] = {}
            for level, (one,) in by_level.items():
                groups.setdefault(one, []).append(level_words(level))
            said = ", ".join(f"{level_words(one)} at {name} {listing(at_)}" for one, at_ in groups.items())
            others = [
                f"{other} ({listing(level_words(v) for v in dict.fromkeys(dict(p)[other] for p in places))})"
                for other in names
                if other != name and len({dict(p)[other] for p in places}) > 1
            ]
            return said + (f", at every {listing(others)}" if others else "")
    by_best: dict[Level, list[Place]] = {}
    for place, best in places.items():
        by_best.setdefault(best.level, []).append(place)
    *few, (most, rest) = sorted(by_best.items(), key=lambda each: len(each[1]))
    said = "; ".join(f"{level_words(level)} at {' and at '.join(map(at, there))}" for level, there in few)
    if len(places) - len(rest) <= MOST_NAMED:
        return f"{said}; {level_words(most)} at all {len(rest)} other combinations of {listing(names)}"
    counts = (f"{level_words(level)} at {len(there)}" for level, there in by_best.items())
    return f"{listing(counts)} of the {len(places)} combinations of {listing(names)}"


def best_basis(study: StudyRuns, factor: Factor, best: BestLevels) -> list[str]:
    """Returns by how much the best levels lead, and how sure their moves are."""
    leads = {place: each.lead for place, each in best.places.items()}
    names = short_places(list(leads), list(leads))
    if len(leads) <= MOST_PLACES:
        said = listing(size(lead) + (names[place] and f" ({names[place]})") for place, lead in leads.items())
    else:
        said = span(leads.values())
    lines = [] if best.untold else [f"The best {factor.name} tried leads the second by {said} {study.unit}."]
    noise, degrees = seed_noise(study)
    if degrees:
        lines.append(f"One run varies by {size(noise)} between seeds ({degrees} degrees of freedom).")
    elif best.noise_source and best.moves:
        lines.append(
            f"One seed: brackets are 95 % intervals from {best.noise_source} ({best.noise:.2%} of the loss), a "
            "stand-in for the noise of seeds."
        )
    else:
        lines.append(unmeasured(min(leads.values()), "a lead of"))
    return lines + at_the_best_of(study, factor, best.places)
