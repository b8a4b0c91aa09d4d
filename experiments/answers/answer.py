"""The answer of a study: what each factor does, how sure that is and from what, and what to run next."""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kleiber.experiments.answers import beside, best_words, sentences
from kleiber.experiments.answers.asked import is_asked, words
from kleiber.experiments.answers.best import BestLevels, best_levels
from kleiber.experiments.answers.caveats import caveats
from kleiber.experiments.answers.effects import TUNED_LEVELS, Effect, effect, tuned_factors
from kleiber.experiments.answers.exchange import exchange_lines
from kleiber.experiments.answers.forgetting import forgetting
from kleiber.experiments.answers.next_runs import next_runs
from kleiber.experiments.answers.study_runs import StudyRuns, study_runs
from kleiber.experiments.answers.worth import YARDSTICKS, worth_lines
from kleiber.experiments.planning.varied import Factor, Level
from kleiber.scaling.fitting.result import FitResult

ONE_SEED = "(One seed: the noise of a run is not measured.)"
SHAPE = ("d_model", "num_layers", "num_tokens")
"""Factors of size and length, which come last, and which a law tells of where one was fitted."""


@dataclass(frozen=True)
class Answer:
    """What one factor does."""

    factor: str
    levels: tuple[Level, ...]
    unit: str
    """Of every difference: `nats per token` or `bits per byte`."""
    sentence: str
    """The answer in a sentence."""
    basis: tuple[str, ...]
    """How sure it is and from what, in sentences."""
    next: tuple[str, ...]
    """What to run next to be sure."""
    effects: tuple[Effect, ...] = ()
    best: BestLevels | None = None

    @property
    def says_something(self) -> bool:
        """Whether runs tell anything of it, if only that they cannot be compared."""
        return bool(self.effects or self.basis or (self.best and self.best.places))

    @property
    def lines(self) -> tuple[str, ...]:
        """Everything, a sentence a line."""
        return (self.sentence, *self.basis, *(f"next: {each}" for each in self.next))

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def to_json(self) -> dict[str, Any]:
        """Returns the answer as JSON data."""
        return {
            "factor": self.factor,
            "levels": list(self.levels),
            "unit": self.unit,
            "sentence": self.sentence,
            "basis": list(self.basis),
            "next": list(self.next),
            "effects": [
                {
                    "level": each.level,
                    "against": each.against,
                    "difference": each.mean,
                    "interval_95": None if each.interval is None else list(each.interval),
                    "num_pairs": each.num_units,
                    "differs_by_place": each.differs,
                    "pairs": [{"at": dict(p.place), "seed": p.seed, "difference": p.difference} for p in each.pairs],
                }
                for each in self.effects
            ],
            "best": [
                {"at": dict(place), "level": each.level, "lead": each.lead, "is_at_edge": bool(each.edge)}
                | {"vertex": each.parabola.vertex if each.parabola else None}
                for place, each in (self.best.places.items() if self.best else ())
            ],
            "moves": [asdict(each) for each in (self.best.moves if self.best else ())],
        }


@dataclass(frozen=True)
class Answers:
    """The answers of a sweep, the first the most to the point."""

    study: StudyRuns
    answers: tuple[Answer, ...]
    caveats: tuple[str, ...]
    """What holds for all of them: a validation set smaller than asked, and the like."""
    num_asked: int = 1
    """How many of the first are of factors that the question names."""

    @property
    def headline(self) -> str:
        """The answer to the question: the sentences of the factors it names."""
        asked = self.answers[: self.num_asked]
        is_unsure = self.study.num_seeds == 1 and any(each.effects or each.best for each in asked)
        return " ".join([*(each.sentence for each in asked), *[ONE_SEED] * is_unsure])

    @property
    def lines(self) -> list[str]:
        """Every factor's sentence, what those asked for rest on, the caveats, and what to run next."""
        following = dict.fromkeys(f"next: {line}" for each in self.answers for line in each.next)
        basis = dict.fromkeys(line for each in self.answers[: self.num_asked] for line in each.basis)
        return [*(each.sentence for each in self.answers), *basis, *self.caveats, *following]

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def of(self, word: str) -> Answer:
        """Returns the answer for one factor.

        Raises:
          ValueError: nothing of that name varies, with the nearest that does.
        """
        factor = self.study.factor(word)
        for answer in self.answers:
            if answer.factor == (factor.name if factor else word):
                return answer
        if word == "seed" and self.study.num_seeds > 1:
            return _seeds(self.study)
        names = [each.name for each in self.study.factors]
        near = difflib.get_close_matches(word, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"{word!r} does not vary over the measured runs; {hint}these do: {', '.join(names) or 'none'}."
        )


def answers_of(
    experiment: dict[str, Any], records: Sequence[dict[str, Any]], directory: Path, fits: Sequence[FitResult] = ()
) -> Answers:
    """Returns what a sweep says of every factor.

    Args:
      experiment: experiment.json.
      records: of the sweep, as dicts.
      directory: of the sweep.
      fits: the laws fitted, the registered one first.
    """
    study = study_runs(experiment, records, directory)
    tuned = [each.name for each in tuned_factors(study)]
    said = words(str(experiment.get("question", "")))
    asked = [each for each in study.factors if is_asked(each, said)] or list(study.factors)
    asked = [each for each in asked if each.name not in SHAPE] or asked  # "at three sizes" asks for nothing else

    def rank(factor: Factor) -> tuple:
        return (factor not in asked, factor.name in SHAPE, factor.name not in tuned)

    order = sorted(study.factors, key=rank)
    found = [each for each in (_answer(study, factor, fits) for factor in order) if each]
    told = {each.factor for each in found if each.says_something}
    found.sort(key=lambda each: each.factor not in told)
    if told_forgetting := forgetting(experiment, study):
        found.insert(0, Answer("forgetting", told_forgetting[0], study.unit, *told_forgetting[1:]))
        told.add("forgetting")
    if study.runs and (not found or said & {"seed", "noise"}):
        found.insert(0, _seeds(study))
    names = {"seed", *(each.name for each in asked)}
    if "forgetting" in told:  # it is the question, with whatever else that names
        names = {"forgetting", *(each.name for each in study.factors if is_asked(each, said))}
    names &= {"seed", *told} or names
    num_asked = max(1, sum(each.factor in names for each in found))
    return Answers(study, tuple(found), tuple(caveats(experiment, study, directory)), num_asked)


def _seeds(study: StudyRuns) -> Answer:
    """Returns what runs that differ in nothing but the seed say: a mean, and the noise of one run."""
    seeds = tuple(sorted({run.seed for run in study.runs}))
    return Answer("seed", seeds, study.unit, *sentences.seeds_sentence(study))


def _best(study: StudyRuns, factor: Factor) -> BestLevels:
    """Returns the best levels of a factor, where other numbers of the optimizer are at their best: where it is such a
    number itself only if it has too many best levels to be named beside theirs."""
    tuned = {each.name for each in tuned_factors(study)}
    found = best_levels(study, factor, () if factor.name in tuned else tuned)
    is_plain = len(found.places) <= best_words.MOST_NAMED or len({each.level for each in found.places.values()}) == 1
    return found if is_plain else best_levels(study, factor, tuned - {factor.name})


def _answer(study: StudyRuns, factor: Factor, fits: Sequence[FitResult]) -> Answer | None:
    if factor.scales:
        return Answer(factor.name, factor.levels, study.unit, *beside.other_scales(study, factor))
    is_grown = factor == study.length or (factor.name in SHAPE and study.grows_with(factor))  # by how much is asked
    best = _best(study, factor) if len(factor.levels) >= TUNED_LEVELS and not is_grown else None
    before, after = (factor.levels[0],) * len(factor.levels), factor.levels[1:]
    if is_grown:
        before = factor.levels
    plain = YARDSTICKS[factor.name].plain if factor.name in YARDSTICKS else None
    if plain in factor.levels:  # weights as they are, or none of what the others have
        best, after = None, tuple(level for level in factor.levels if level != plain)
        before = (plain,) * len(after)
    pairs = list(zip(before, after, strict=False))
    effects = tuple(found for against, level in pairs if (found := effect(study, factor, level, against)))
    law, (worth, of_worth) = exchange_lines(fits, factor), worth_lines(study, factor)
    is_law_only = bool(fits) and factor.name in SHAPE
    if best and best.places:
        sentence, basis = best_words.best_sentence(study, factor, best), best_words.best_basis(study, factor, best)
    elif effects and not is_law_only:
        sentence, basis = (
            sentences.effect_sentence(study, factor, effects),
            sentences.effect_basis(study, factor, effects),
        )
    elif law:
        return Answer(factor.name, factor.levels, study.unit, law[0], tuple(law[1:]), (), effects, best)
    elif is_law_only:
        return None
    else:
        sentence, basis = beside.untold(study, factor), []
    sentence = "; ".join([sentence.removesuffix("."), *beside.with_it(study, factor)]) + "."
    if equal := study.by_steps(factor):
        other = _answer(equal, factor, ())
        sentence += f" At equal steps, {other.sentence}" if other else ""
    sentence = " ".join([sentence, *worth])
    basis += [*law, *of_worth, *(beside.company(study, factor) if basis else [])]
    following = next_runs(study, factor, effects, best)
    return Answer(factor.name, factor.levels, study.unit, sentence, tuple(basis), tuple(following), effects, best)
