"""What a run says of labelled texts: the arithmetic of scores, the linear baseline, and the verb that shows them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from kleiber.experiments.api import runs
from kleiber.experiments.api.labels import label_losses, read_labelled, score_labels
from kleiber.experiments.cli import main
from kleiber.model.config import ModelConfig
from kleiber.model.functional import apply, init_params
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.corpora.text_file.reading import read_documents
from kleiber.train.data.run_data import open_run_data
from kleiber.train.data.tokenizers import stored_tokenizer
from kleiber.train.data.tokens import TokenFile
from kleiber.train.data.windows import TokenSource
from kleiber.train.evaluate import token_losses
from kleiber.train.gradients import gradients
from kleiber.train.scores.classification import classify, paired_difference, wilson_interval
from kleiber.train.scores.linear import predict_linear

MODEL = ModelConfig(d_model=8, num_layers=1, num_heads=2, seq_len=16)
CONFIG = TrainConfig(MODEL, OptimizerConfig(0.1), (100,), evaluation=EvalConfig(batch_size=4))
TEXTS = ("a cat", "two dogs", "what a long text about cats and dogs", "cat", "a dog")
LABELS = ("cat", "dog", "both", "cat", "dog")


@pytest.fixture(scope="module")
def run():
    draw = np.random.default_rng(0)
    tree = jax.tree.map(lambda p: np.float32(p + 0.3 * draw.standard_normal(p.shape)), init_params(MODEL, 0))
    return SimpleNamespace(config=CONFIG, tree=tree, tokenizer=stored_tokenizer("bytes", b""), name="d8")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": k}) + "\n" for t, k in zip(TEXTS, LABELS, strict=True)))
    return path


def test_scores_are_those_worked_out_by_hand():
    found = classify(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 3, 0]))
    # Class 0: 2 of 3 said, 2 of 3 found; 1: 1 of 2 and 1 of 2; 2: never said; 3: said once, is never.
    assert found.accuracy == pytest.approx(3 / 6)
    assert found.precision_macro == pytest.approx((2 / 3 + 1 / 2 + 0 + 0) / 4)
    assert found.recall_macro == pytest.approx((2 / 3 + 1 / 2 + 0 + 0) / 4)
    assert found.f1_macro == pytest.approx((2 / 3 + 1 / 2) / 4)
    assert found.f1_weighted == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 6)


def test_the_interval_of_an_accuracy_is_wilsons_and_holds_the_truth_as_often_as_it_says():
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)  # Newcombe 1998, by hand
    assert wilson_interval(1.0, 20)[1] == 1.0 and wilson_interval(0.0, 20)[0] == 0.0
    draw = np.random.default_rng(0)
    for truth in (0.1, 0.5, 0.9):
        ends = np.array([wilson_interval(hits / 200, 200) for hits in draw.binomial(200, truth, 500)])
        assert 0.92 <= np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) <= 0.98


def test_two_predictions_are_compared_on_the_examples_they_share():
    labels, one, other = np.zeros(8, int), np.array([0, 0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 0, 1, 1])
    difference, low, high = paired_difference(labels, one, other)
    gains = np.array([0, 0, 0, 1, 1, -1, 0, 0])
    assert difference == pytest.approx(1 / 8)
    assert high - difference == difference - low == pytest.approx(1.96 * gains.std(ddof=1) / 8**0.5, rel=1e-4)


def test_the_linear_baseline_is_the_penalised_regression_of_a_slow_dense_version():
    draw = np.random.default_rng(0)
    words = [["red", "blue"], ["sea", "sky"], ["one", "two"]]
    labels = draw.integers(0, 3, 60)
    texts = [" ".join(draw.choice(words[k] + ["the", "and", "is"], 5)) for k in labels]
    train, test = texts[:40], texts[40:]
    names = sorted({word for text in train for word in text.split()})
    counts = np.array([[text.split().count(word) for word in names] for text in texts], float)
    weighted = counts * (np.log(41 / (1 + (counts[:40] > 0).sum(axis=0))) + 1)
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    weights, bias = np.zeros((len(names), 3)), np.zeros(3)
    for _ in range(4000):  # plain descent on the summed loss and half the squared weights
        logits = weighted[:40] @ weights + bias
        slope = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)) - np.eye(3)[labels[:40]]
        weights, bias = weights - 0.02 * (weighted[:40].T @ slope + weights), bias - 0.02 * slope.sum(axis=0)
    expected = (weighted[40:] @ weights + bias).argmax(axis=1)
    found = predict_linear(train, labels[:40], test, 3)
    assert found.tolist() == expected.tolist() and np.mean(found == labels[40:]) > 0.8
    assert predict_linear(["", "!"], np.array([1, 1]), ["x"], 2).tolist() == [1]  # no word to learn from


def test_labels_lose_what_the_whole_document_does_but_for_what_they_share(run):
    names = ["cat", "cow", "dog"]
    found, num_cut = label_losses(run, ["a b", "one that is longer than its context"], names)
    assert num_cut == 1
    for k, name in enumerate(names):
        ids = np.concatenate([[10], np.frombuffer(f"a b\n{name}".encode(), np.uint8), [10]]).astype(np.int32)
        ids[[0, -1]] = run.tokenizer.encode([b""])[0][0]
        logits = np.asarray(apply(MODEL, run.tree, ids[None, :-1]))[0].astype(np.float64)
        losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(losses, token_losses(CONFIG, run.tree, ids), rtol=1e-4)
        assert found[0, k] == pytest.approx(losses[4:].sum(), rel=1e-5)  # the space of "a b" and its line are shared


def test_the_loss_and_the_scores_of_a_run_stand_beside_the_baselines(run, file):
    found = score_labels(run, read_labelled(file), read_labelled(file))
    losses = label_losses(run, TEXTS, ["both", "cat", "dog"])[0]
    chosen = [1, 2, 0, 1, 2]
    chances = np.exp(-losses) / np.exp(-losses).sum(axis=1, keepdims=True)
    assert found["nats_per_label"] == pytest.approx(-np.log(chances[np.arange(5), chosen]).mean())
    assert found["scores"]["model"]["accuracy"] == np.mean(losses.argmin(axis=1) == chosen)
    assert found["scores"]["majority"]["accuracy"] == pytest.approx(2 / 5)
    assert set(found["scores"]) == {"model", "majority", "linear"} and found["num_cut"] == 1


def test_the_verb_prints_accuracies_and_names_what_is_wrong_in_a_file(run, file, monkeypatch, capsys):
    monkeypatch.setattr(runs, "load", lambda path: run)
    monkeypatch.setattr("kleiber.experiments.commands.eval.compute_as_a_worker", lambda config: None)
    assert main(["score", "d8", "--file", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "d8: 5 texts of 3 labels, 1 longer than its context and cut at their beginning"
    assert lines[2].startswith("  majority accuracy 40.0% [11.8%, 76.9%], macro F1 0.190")
    few = file.with_name("few.jsonl")
    few.write_text('{"text": "a", "label": "cat"}\n{"text": "b", "label": "dog"}\n')
    assert main(["score", "d8", "--file", str(file), "--train", str(few)]) == 2
    assert f"{file} has the label 'both', which {few} has not" in capsys.readouterr().err
    few.write_text('{"text": "a", "label": "cat"}\n{"text": "b", "label": "cat"}\n')
    assert main(["score", "d8", "--file", str(few)]) == 2
    assert "2 texts of one label or none, expected two labels or more" in capsys.readouterr().err
    few.write_text('{"text": "a"}\n')
    assert main(["score", "d8", "--file", str(few)]) == 2
    assert "line 1 has no text under the key 'label'" in capsys.readouterr().err.replace("entry 1", "line 1")
    encoder = SimpleNamespace(**{**vars(run), "config": replace(
        CONFIG, model=replace(MODEL, family="encoder"), objective="masked")})  # fmt: skip
    with pytest.raises(ValueError, match="trained by 'masked'"):
        label_losses(encoder, ["a"], ["b", "c"])


@pytest.mark.parametrize("separator", [10, 1])  # that of bytes is a newline itself, that of pieces is not
def test_the_objective_label_weighs_the_last_line_of_each_document_and_no_other(separator):
    draw = np.random.default_rng(0)
    documents = [[int(each) for each in draw.choice([10, 65, 66, 67], draw.integers(1, 9))] for _ in range(60)]
    documents = [[65, *ids, 66, separator] for ids in documents]
    expected = []
    for ids in documents:
        lines = [place for place, each in enumerate(ids[:-1]) if each == 10]
        first = lines[-1] + 1 if lines else len(ids)
        expected += [float(place >= first) for place in range(len(ids))]
    tokens, offsets = np.array(sum(documents, []), np.uint8), np.cumsum([0, *map(len, documents)])
    file = TokenFile(tokens, offsets, np.zeros(60, np.int32), "bytes", 256, len(tokens), "x/0")
    source = TokenSource(file, 8, "test", "train")
    found = source.label_weights(np.arange(5), frozenset((10,)))
    assert 5 < found.sum() < 35
    for row in range(5):
        np.testing.assert_array_equal(found[row], expected[8 * row + 1 : 8 * row + 9])
    config = replace(CONFIG, objective="label", model=replace(MODEL, seq_len=8))
    batch = Batch(source.windows(np.arange(4)), weights=found[:4])
    params = jax.tree.map(np.asarray, init_params(config.model, 0))
    logged, _ = gradients(config, params, batch, None)
    losses = np.stack([token_losses(config, params, row) for row in source.windows(np.arange(4))])
    assert logged["loss"] == pytest.approx((losses * found[:4]).sum() / found[:4].sum(), rel=1e-5)


def test_the_objective_label_is_refused_on_text_of_single_lines(tmp_path):
    path = tmp_path / "plain.jsonl"
    rows = [{"text": f"text {n} " * 40, "label": f"kind {n % 3}"} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = replace(CONFIG, objective="label", evaluation=EvalConfig(64), data=DataConfig(str(path)))
    with pytest.raises(ValueError, match="learns the last line of documents of several lines, and .* has none"):
        open_run_data(config)
    told = open_run_data(replace(config, data=DataConfig(f"{path}#text+label"), evaluation=EvalConfig(2_000)))
    assert 0 < told.weights.mean() < 0.1 and told.newlines == {10}


def test_documents_of_two_keys_have_one_below_the_other(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"text {n} " * 40, "label": f"kind {n % 3}"}) + "\n" for n in range(60))
    )
    assert read_documents(path, "text+label")[4] == "text 4 " * 40 + "\nkind 1"
    assert read_documents(path)[4] == "text 4 " * 40
