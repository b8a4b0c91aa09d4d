"""Tasks of lm-evaluation-harness beside our own computation of the same numbers: make huggingface."""

import json
import math

import pytest
from huggingface_models import KINDS, run_config, weights

import kleiber as kb
from kleiber.experiments.api.continuations import rolling
from kleiber.experiments.cli import main
from kleiber.experiments.exchange.converted_run import convert
from kleiber.experiments.exchange.huggingface_folder import write_huggingface
from kleiber.train.data.tokenizers import ByteTokenizer

pytestmark = pytest.mark.huggingface
QUESTIONS = [
    {
        "context": f"{n} is",
        "choices": [" odd", " even"][:: 1 if n % 3 else -1],
        "answer": n % 2,
        "text": f"say {n} " * 3,
    }
    for n in range(12)
]  # fmt: skip
CHOICE = """task: own_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
PERPLEXITY = """task: own_perplexity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""
WRITING = """task: own_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{written}}}}"
generation_kwargs: {{until: ["\\0"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    home = tmp_path_factory.mktemp("harness")
    model = KINDS["ArceeForCausalLM"]
    write_huggingface(home / "folder", run_config(model), weights(model), ByteTokenizer())
    convert(home / "folder", home / "run")
    run = kb.load(home / "run")
    rows = [
        each | {"written": run.generate(each["context"], 6, 0.0, stops_at_end=True) if n < 9 else "another"}
        for n, each in enumerate(QUESTIONS)
    ]
    (home / "task.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (home / "tasks").mkdir()
    for name, text in (("choice", CHOICE), ("perplexity", PERPLEXITY), ("writing", WRITING)):
        (home / "tasks" / f"{name}.yaml").write_text(text.format(file=home / "task.jsonl"))
    return home


def asked(place, capfd, task, *words):
    line = ["eval", str(place / "run"), "--task", task, "--json", *words]
    assert main([*line, "--task-folder", str(place / "tasks")] if task.startswith("lm-eval:") else line) == 0
    return json.loads(capfd.readouterr().out)


def test_multiple_choice_of_the_harness_is_that_of_our_own_file(place, capfd):
    theirs = asked(place, capfd, "lm-eval:own_choice")
    own = asked(place, capfd, str(place / "task.jsonl"))
    found = theirs["results"]["own_choice"]
    assert found["acc,none"] == own["accuracy"] and found["acc_norm,none"] == own["accuracy_per_byte"]
    assert 0 < own["accuracy"] < 1
    assert theirs["num_documents"] == {"own_choice": 12} and own["num_questions"] == 12
    assert asked(place, capfd, "lm-eval:own_choice", "--limit", "5")["num_documents"] == {"own_choice": 5}


def test_perplexity_of_the_harness_is_that_of_the_summed_losses(place, capfd):
    found = asked(place, capfd, "lm-eval:own_perplexity")["results"]["own_perplexity"]
    texts = [each["text"] for each in QUESTIONS]
    bits = -sum(rolling(kb.load(place / "run"), texts)) / sum(len(each.encode()) for each in texts) / math.log(2)
    assert found["bits_per_byte,none"] == pytest.approx(bits, rel=1e-6)
    assert found["byte_perplexity,none"] == pytest.approx(2**bits, rel=1e-6)


def test_what_the_harness_generates_is_what_kleiber_writes(place, capfd):
    found = asked(place, capfd, "lm-eval:own_writing")["results"]["own_writing"]
    assert found["exact_match,none"] == 9 / 12


def test_an_unknown_task_is_answered_with_the_nearest(place, capfd):
    line = ["eval", str(place / "run"), "--task", "lm-eval:own_choise", "--task-folder", str(place / "tasks")]
    assert main(line) == 2
    assert "has no task 'own_choise'; the nearest are own_choice" in capfd.readouterr().err
