"""The answer of a study: what each factor does, how sure that is and from what, and what to run next."""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kleiber.experiments.answers import sentences
from kleiber.experiments.answers.best import BestLevels, best_levels
from kleiber.experiments.answers.caveats import caveats
from kleiber.experiments.answers.effects import TUNED_LEVELS, Effect, effect, tuned_factors
from kleiber.experiments.answers.exchange import exchange_lines
from kleiber.experiments.answers.study_runs import StudyRuns, study_runs
from kleiber.experiments.answers.worth import worth_lines
from kleiber.experiments.planning.varied import Factor, Level
from kleiber.scaling.fitting.result import FitResult

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
                    "pairs": [{"at": dict(p.place), "seed": p.seed, "difference": p.difference} for p in each.pairs],
                }
                for each in self.effects
            ],
            "best": [
                {"at": dict(place), "level": each.level, "lead": each.lead, "is_at_edge": each.is_at_edge}
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

    @property
    def lines(self) -> list[str]:
        """Every factor's sentence, what the first rests on, the caveats, and what to run next: for a terminal."""
        following = dict.fromkeys(f"next: {line}" for each in self.answers for line in each.next)
        basis = self.answers[0].basis if self.answers else ()
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
            if factor and answer.factor == factor.name:
                return answer
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
    question = str(experiment.get("question", "")).lower()

    def rank(factor: Factor) -> tuple:
        words = (factor.name, *factor.goes_with)
        is_asked = any(word.replace("_", " ") in question for word in words)
        return (factor.name in SHAPE, factor.name not in tuned, not is_asked)

    answers = [_answer(study, factor, fits) for factor in sorted(study.factors, key=rank)]
    return Answers(study, tuple(each for each in answers if each), tuple(caveats(experiment, study, directory)))


def _answer(study: StudyRuns, factor: Factor, fits: Sequence[FitResult]) -> Answer | None:
    is_grown = factor == study.length or factor.name in SHAPE  # more is better: what counts is by how much
    best = best_levels(study, factor) if len(factor.levels) >= TUNED_LEVELS and not is_grown else None
    before = factor.levels if is_grown else (factor.levels[0],) * len(factor.levels)
    pairs = list(zip(before, factor.levels[1:], strict=False))
    effects = tuple(found for against, level in pairs if (found := effect(study, factor, level, against)))
    law, worth = exchange_lines(fits, factor), worth_lines(study, factor)
    is_law_only = bool(fits) and factor.name in SHAPE
    if worth:
        best = None  # more bits are better: what counts is by how much
        sentence, basis = " ".join(worth[0]), list(worth[1])
    elif best and best.places:
        sentence, basis = sentences.best_sentence(study, factor, best), sentences.best_basis(study, factor, best)
    elif effects and not is_law_only:
        sentence, basis = sentences.effect_sentence(study, factor, effects), sentences.effect_basis(study, effects)
    elif law:
        return Answer(factor.name, factor.levels, study.unit, law[0], tuple(law[1:]), (), effects, best)
    elif is_law_only:
        return None
    else:
        sentence, basis = f"{factor.name}: no two runs differ in it alone, so its effect cannot be told.", []
    basis += [*law, *([] if worth else sentences.company(study, factor))]
    following = sentences.next_runs(study, factor, effects, best)
    return Answer(factor.name, factor.levels, study.unit, sentence, tuple(basis), tuple(following), effects, best)
