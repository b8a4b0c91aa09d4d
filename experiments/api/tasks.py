"""Tasks of choosing: how often the weights of a run find the right one of several texts that go on from another."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kleiber.files import read_plain
from kleiber.train.scores.classification import wilson_interval

if TYPE_CHECKING:
    from kleiber.experiments.api.runs import Run

EXAMPLE = '{"context": "The sky is", "choices": [" blue", " green"], "answer": 0}'


@dataclass(frozen=True)
class Question:
    """A context, what may follow, and what does."""

    context: str
    choices: tuple[str, ...]
    answer: int
    """The number of the right choice, from 0."""


def read_questions(path: Path) -> list[Question]:
    """Returns the questions of a file of JSON lines, each an object with `context`, `choices` and `answer`.

    Raises:
      ValueError: the file holds none, or a line is none; says which line and what is wrong.
    """
    try:
        text = read_plain(path).decode()
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path} is not UTF-8 ({problem}); expected lines such as {EXAMPLE}") from None
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(_question(json.loads(line)))
        except (ValueError, RecursionError) as problem:
            raise ValueError(f"{path}, line {number}: {problem}; expected a line such as {EXAMPLE}") from None
    if not found:
        raise ValueError(f"{path} holds no question; expected lines such as {EXAMPLE}")
    return found


def _question(data: Any) -> Question:
    if not isinstance(data, dict) or not {"context", "choices", "answer"} <= data.keys():
        raise ValueError("it is no object with context, choices and answer")
    context, choices, answer = data["context"], data["choices"], data["answer"]
    if not isinstance(context, str):
        raise ValueError("its context is no text")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(each, str) and each for each in choices):
        raise ValueError("its choices are no list of two texts or more, none of them empty")
    if len(set(choices)) < len(choices):
        raise ValueError("two of its choices are the same")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise ValueError(f"its answer is {answer!r}, and its choices are numbered 0 to {len(choices) - 1}")
    if any("\ud800" <= character <= "\udfff" for character in "".join((context, *choices))):
        raise ValueError("it has half a character (an unpaired surrogate), which no UTF-8 holds")
    return Question(context, tuple(choices), answer)


def score_questions(run: "Run", questions: list[Question]) -> dict[str, Any]:
    """Returns how often a run gives the right choice the highest likelihood, and the highest one per byte.

    Args:
      run: a decoder.
      questions: of read_questions.

    Returns:
      num_questions, num_cut (contexts that lost their beginning), chance (of guessing), and accuracy and
      accuracy_per_byte, each with its 95 % interval (Wilson) beside it.
    """
    from kleiber.experiments.api.continuations import continuations

    pairs = [(question.context, choice) for question in questions for choice in question.choices]
    told = iter(continuations(run, pairs))
    hits, hits_per_byte, num_cut = [], [], 0
    for question in questions:
        of_choices = [next(told) for _ in question.choices]
        logs = np.array([each.log_likelihood for each in of_choices])
        hits.append(logs.argmax() == question.answer)
        lengths = np.array([len(choice.encode()) for choice in question.choices])
        hits_per_byte.append((logs / lengths).argmax() == question.answer)
        num_cut += any(each.was_cut for each in of_choices)
    count = len(questions)
    found: dict[str, Any] = {"num_questions": count, "num_cut": num_cut}
    found["chance"] = float(np.mean([1 / len(question.choices) for question in questions]))
    for name, each in (("accuracy", hits), ("accuracy_per_byte", hits_per_byte)):
        share = float(np.mean(each))
        found |= {name: share, f"{name}_interval_95": list(wilson_interval(share, count))}
    return found
