"""Questions with several answers: how likely a run finds each, beside a slow sum over the logits of each choice."""

import json

import numpy as np
import pytest
from huggingface_models import KINDS, run_config, weights
from slow_huggingface import expected_logits

import kleiber as kb
from kleiber.experiments.api.continuations import continuations, rolling
from kleiber.experiments.cli import main
from kleiber.experiments.exchange.converted_run import convert
from kleiber.experiments.exchange.huggingface_folder import write_huggingface
from kleiber.train.data.tokenizers import ByteTokenizer

QUESTIONS = [
    {"context": "sky", "choices": [" b", "red"], "answer": 0},
    {"context": "", "choices": ["one", "seven", "\u00e9"], "answer": 2},
    {"context": "longer than the window", "choices": ["a", "bc"], "answer": 1},
    {"context": "x", "choices": ["aaaa", "b", "cc", "zz"], "answer": 3},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of transformers and the run that was made of it, of a window of ten bytes."""
    home = tmp_path_factory.mktemp("tasks")
    model = KINDS["ArceeForCausalLM"]
    write_huggingface(home / "folder", run_config(model), weights(model), ByteTokenizer())
    convert(home / "folder", home / "run")
    return home


def slow_log_likelihood(folder, context, text):
    """The sum of log-probabilities of the bytes of a text, in a window of ten, by the slow model."""
    tokens = np.array([10, *context.encode(), *text.encode()])
    count = len(text.encode())
    read = tokens[-11:]
    logits = expected_logits(folder, read[:-1])
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    places = np.arange(len(read) - 1 - count, len(read) - 1)
    return logs[places, read[1:][places]].sum(), bool((logits[places].argmax(-1) == read[1:][places]).all())


def test_the_likelihood_of_a_text_behind_a_context_is_that_of_the_slow_sum(place):
    pairs = [(each["context"], choice) for each in QUESTIONS for choice in each["choices"]]
    found = continuations(kb.load(place / "run"), pairs)
    for (context, text), told in zip(pairs, found, strict=True):
        expected, is_likeliest = slow_log_likelihood(place / "folder", context, text)
        assert told.log_likelihood == pytest.approx(expected, abs=1e-3) and told.is_likeliest == is_likeliest
        assert told.was_cut == (len(context) > 10)
    best = kb.load(place / "run").generate("sky", 1, temperature=0)
    if len(best.encode()) == 1:
        assert continuations(kb.load(place / "run"), [("sky", best)])[0].is_likeliest
    with pytest.raises(ValueError, match="adds no token"):
        continuations(kb.load(place / "run"), [("a", "")])
    with pytest.raises(ValueError, match="a text of 11 tokens to score, but the window of this run holds 10"):
        continuations(kb.load(place / "run"), [("a", "b" * 11)])


def test_each_token_of_a_long_text_counts_once_with_a_whole_window_before_it(place):
    text = "a text of more than two windows"
    tokens, expected = np.array([10, *text.encode()]), 0.0
    for start, end in ((0, 10), (10, 20), (20, 30), (21, 31)):
        logits = expected_logits(place / "folder", tokens[start:end])
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        counted = range(9, 10) if start == 21 else range(10)
        expected += sum(logs[at, tokens[start + at + 1]] for at in counted)
    assert len(text) == 31
    assert rolling(kb.load(place / "run"), [text, ""]) == [pytest.approx(expected, abs=1e-3), 0.0]


def test_a_file_of_questions_is_scored_with_its_interval_and_chance(place, tmp_path, capsys):
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in QUESTIONS) + "\n\n")
    assert main(["eval", str(place / "run"), "--task", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    hits = {"accuracy": 0, "accuracy_per_byte": 0}
    for each in QUESTIONS:
        logs = [slow_log_likelihood(place / "folder", each["context"], choice)[0] for choice in each["choices"]]
        hits["accuracy"] += np.argmax(logs) == each["answer"]
        per_byte = [log / len(choice.encode()) for log, choice in zip(logs, each["choices"], strict=True)]
        hits["accuracy_per_byte"] += np.argmax(per_byte) == each["answer"]
    assert {name: told[name] for name in hits} == {name: count / 4 for name, count in hits.items()}
    assert told["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1 / 4) / 4)
    assert (told["num_questions"], told["num_cut"]) == (4, 1)
    low, high = told["accuracy_interval_95"]
    assert 0 <= low < told["accuracy"] + 1e-9 and told["accuracy"] - 1e-9 < high <= 1
    assert main(["eval", str(place / "run"), "--task", str(path)]) == 0
    assert "4 questions, 1 cut at their beginning, 39.6% by chance" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "line 2: "),
        ("[1]", "no object with context, choices and answer"),
        ('{"context": 1, "choices": ["a", "b"], "answer": 0}', "its context is no text"),
        ('{"context": "", "choices": ["a"], "answer": 0}', "no list of two texts or more"),
        ('{"context": "", "choices": ["a", ""], "answer": 0}', "none of them empty"),
        ('{"context": "", "choices": ["a", "a"], "answer": 0}', "two of its choices are the same"),
        ('{"context": "", "choices": ["a", "b"], "answer": 2}', "its answer is 2, and its choices are numbered 0 to 1"),
        ('{"context": "", "choices": ["a", "b"], "answer": true}', "its answer is True"),
        ('{"context": "\\ud800", "choices": ["a", "b"], "answer": 0}', "half a character"),
    ],
)
def test_a_line_that_is_no_question_is_named(place, tmp_path, capsys, line, said):
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(QUESTIONS[0]) + "\n" + line + "\n")
    assert main(["eval", str(place / "run"), "--task", str(path)]) == 2
    told = capsys.readouterr().err
    assert said in told and "line 2" in told and "expected a line such as" in told


def test_options_of_tasks_that_do_not_go_together_are_refused(place, tmp_path, capsys):
    for words, said in (
        (["--task", "a.jsonl", "--text", "b.txt"], "--text and --task; give one"),
        (["--limit", "3"], "go with --task lm-eval:NAME"),
        (["--task", "lm-eval:x", "--limit", "0"], "--limit 0, expected 1 or more"),
        (["--task", str(tmp_path / "none.jsonl")], "none.jsonl"),
    ):
        assert main(["eval", str(place / "run"), *words]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "empty.jsonl").write_text("\n")
    assert main(["eval", str(place / "run"), "--task", str(tmp_path / "empty.jsonl")]) == 2
    assert "holds no question" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").write_bytes(b"\xff\xfe\x00")
    assert main(["eval", str(place / "run"), "--task", str(tmp_path / "empty.jsonl")]) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_a_task_of_the_harness_says_how_it_is_installed(place, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    assert main(["eval", str(place / "run"), "--task", "lm-eval:hellaswag"]) == 2
    assert "pip install 'kleiber[lm-eval]'" in capsys.readouterr().err
