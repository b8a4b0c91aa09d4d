"""Targets that are searched for, and scores of how near they come: against exhaustive search and sacrebleu itself."""

import itertools
import json
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from kleiber.experiments.api.runs import load, sweep
from kleiber.experiments.api.translations import score_pairs
from kleiber.experiments.cli import main
from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.model.decode.beam import Beam, translate
from kleiber.model.encoder import EncoderConfig
from kleiber.model.functional import apply, init_params
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from kleiber.train.scores.translation import score_translations
from kleiber.train.translations import pairs_of_file

END = 1
MODEL = ModelConfig(
    8, 1, 2, vocab_size=4, seq_len=4, family="encoder_decoder", encoder=EncoderConfig(1, 6), has_tied_head=False,
    has_previous_token_mix=True,
)  # fmt: skip
LONG = replace(MODEL, vocab_size=8, seq_len=8)
RUN = jax.jit(apply, static_argnums=0)


def weights(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (x + 0.4 * rng.standard_normal(x.shape)).astype(x.dtype), init_params(MODEL, seed))


PARAMS = [weights(seed) for seed in range(3)]
SOURCES = [np.array(ids) for ids in ([2, 3, 1], [3, 3, 2, 0, 1], [0, 1], [2, 0, 3, 1])]


def log_probabilities(params, source, target, model=MODEL):
    """Returns the log probability of each token after the target's beginnings, float64 [len + 1, V]."""
    row, ids = np.zeros(6 + model.seq_len, int), np.zeros(6 + model.seq_len, int)
    row[: len(source)], ids[: len(source)] = source, 1
    written = [END, *target][: model.seq_len]
    row[6 : 6 + len(written)], ids[6 : 6 + len(written)] = written, 1
    return np.asarray(jax.nn.log_softmax(RUN(model, params, row[None], ids[None])[0]), np.float64)


def best_of_all(params, source, penalty):
    """Returns the target of the best score among all that end, and its score."""
    found = []
    for length in range(4):
        for target in itertools.product((0, 2, 3), repeat=length):
            logs = log_probabilities(params, source, target)
            total = sum(logs[place, token] for place, token in enumerate([*target, END]))
            found.append((total / ((5 + length + 1) / 6) ** penalty, list(target)))
    return max(found)


def test_a_beam_wide_enough_finds_the_best_of_all_targets():
    lengths, penalty = set(), 1.0
    for params in PARAMS:
        found = translate(MODEL, params, SOURCES, END, Beam(64, penalty))
        for source, target in zip(SOURCES, found, strict=True):
            expected = best_of_all(params, source, penalty)[1]
            assert target.tolist() == expected
            lengths.add(len(expected))
    assert len(lengths) > 1


def slow_beam(params, source, width, penalty):
    """Returns the target that a beam finds, every beginning read anew from its start."""
    going, ended = [(0.0, [])], []
    for _ in range(8):
        grown = []
        for total, begun in going:
            logs = log_probabilities(params, source, begun, LONG)[len(begun)]
            grown += [(total + logs[token], [*begun, token]) for token in range(8)]
        grown.sort(key=lambda each: -each[0])
        for total, target in grown[:width]:
            if target[-1] == END:
                ended.append((total / ((5 + len(target)) / 6) ** penalty, target[:-1]))
        going = [each for each in grown if each[1][-1] != END][:width]
        if len(ended) >= width or (ended and max(ended)[0] >= going[0][0] / (13 / 6) ** penalty):
            break
    return max(ended)[1] if ended else going[0][1]


def test_a_narrow_beam_remembers_what_its_own_beginnings_say():
    found_lengths, penalty = set(), 0.6
    for seed in range(4):
        rng = np.random.default_rng(seed)
        params = jax.tree.map(lambda x: (x + rng.standard_normal(x.shape)).astype(x.dtype), init_params(LONG, seed))  # noqa: B023
        params["head"][:, END] -= 2 * np.abs(params["head"][:, END])
        found = translate(LONG, params, SOURCES, END, Beam(3, penalty))
        for source, target in zip(SOURCES, found, strict=True):
            assert target.tolist() == slow_beam(params, source, 3, penalty)
            found_lengths.add(len(target))
    assert len(found_lengths) > 2


def test_a_beam_of_one_takes_the_likeliest_token_at_each_place_and_a_source_is_alone_in_its_batch():
    for params in PARAMS:
        found = translate(MODEL, params, SOURCES, END, Beam(1))
        for source, target in zip(SOURCES, found, strict=True):
            expected = []
            while len(expected) < 4:
                token = int(log_probabilities(params, source, expected)[len(expected)].argmax())
                if token == END:
                    break
                expected.append(token)
            assert target.tolist() == expected
        (alone,) = translate(MODEL, params, SOURCES[1:2], END, Beam(1))
        assert alone.tolist() == found[1].tolist()


def test_a_source_longer_than_the_encoder_reads_is_refused():
    with pytest.raises(ValueError, match="a source of 7 tokens, expected 1 to 6"):
        translate(MODEL, PARAMS[0], [np.ones(7, int)], END)


WORDS = ["the cat sat on the mat", "a dog ran over the hill today", "it is raining in the old town", "no one was there"]


def texts(seed, share, count=60):
    """Returns (targets, texts with a share of words replaced, documents)."""
    rng = np.random.default_rng(seed)
    targets = [" ".join(rng.permutation(WORDS[n % 4].split())) for n in range(count)]
    given = [" ".join("x" if rng.random() < share else word for word in text.split()) for text in targets]
    return targets, given, np.arange(count) // 5


def test_scores_are_those_of_sacrebleu_with_its_signature():
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    targets, given, documents = texts(0, 0.2)
    told = score_translations(targets, {"model": given, "copy": targets}, documents)
    assert told["scores"]["model"]["bleu"] == BLEU().corpus_score(given, [targets]).score
    assert told["scores"]["model"]["chrf"] == CHRF().corpus_score(given, [targets]).score
    assert told["scores"]["model"]["exact_match"] == np.mean([a == b for a, b in zip(given, targets, strict=True)])
    assert told["scores"]["copy"]["bleu"] == pytest.approx(100) and told["scores"]["copy"]["exact_match"] == 1
    assert "tok:13a" in told["signatures"]["bleu"] and "nc:6" in told["signatures"]["chrf"]
    chinese = ["打开文件", "保存文件并关闭"]
    told = score_translations(chinese, {"model": ["打开文件", "保存文件"]}, np.arange(2), "zh")
    assert (
        told["scores"]["model"]["bleu"] == BLEU(tokenize="zh").corpus_score(["打开文件", "保存文件"], [chinese]).score
    )
    assert "tok:zh" in told["signatures"]["bleu"]


def test_an_interval_is_that_of_documents_drawn_anew_and_differences_are_of_the_same_draws():
    targets, given, documents = texts(1, 0.3)
    told = score_translations(targets, {"model": given, "copy": given}, documents)
    low, high = told["scores"]["model"]["bleu_interval_95"]
    assert low < told["scores"]["model"]["bleu"] < high
    assert told["against"]["copy"]["bleu_interval_95"] == [0, 0]  # of itself, whatever is drawn
    exact = np.array([a == b for a, b in zip(given, targets, strict=True)], float).reshape(12, 5).mean(axis=1)
    half = 1.96 * exact.std() / 12**0.5  # of the mean of documents of one size
    low, high = told["scores"]["model"]["exact_match_interval_95"]
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)


def test_without_sacrebleu_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(ValueError, match=r"pip install 'kleiber\[translation\]'"):
        score_translations(["a"], {"model": ["a"]}, np.zeros(1, int))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A run that learns to spell words of three letters backwards."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("swept")
        patch.setenv("KLEIBER_CACHE", str(folder / "cache"))
        rng = np.random.default_rng(0)
        words = dict.fromkeys("".join(rng.choice(list("abcdefgh"), 3)) for _ in range(900))
        (folder / "words.tsv").write_text("".join(f"{word}\t{word[::-1]}\n" for word in words))
        model = ModelConfig(
            16, 1, 2, seq_len=8, family="encoder_decoder", encoder=EncoderConfig(1, 8), has_previous_token_mix=True
        )
        trunk = TrainConfig(
            model, OptimizerConfig(0.02), (640,), batch_size=8, objective="sequence_to_sequence",
            data=DataConfig(str(folder / "words.tsv"), max_epochs=60), schedule=ScheduleConfig(warmup_steps=5),
            evaluation=EvalConfig(num_tokens=64, batch_size=8), steps_per_call=8,
        )  # fmt: skip
        experiment = Experiment("words", "?", (trunk,), laws=())
        result = sweep(experiment, folder / "out", workers=1, report=False, is_quiet=True)
        assert result.exit_code == 0
        yield folder


def test_a_finished_run_is_scored_beside_copying_on_pairs_that_it_has_not_seen(swept, capsys):
    (run,) = (swept / "out" / "runs").glob("*-D640")
    assert main(["score", str(run), "--beam", "2"]) == 0
    told = capsys.readouterr().out
    assert "words.tsv, test), beam 2" in told and "copy " in told and "BLEU" in told and "source" in told
    (swept / "few.tsv").write_text("abc\tcba\nabca\tacba\n")
    scores = score_pairs(load(run), pairs_of_file(str(swept / "few.tsv")), 2)
    assert scores["num_pairs"] == 2 and scores["num_cut"] == 0 and scores["beam"] == 2
    assert scores["examples"][0]["source"] == "abc" and scores["examples"][0]["target"] == "cba"
    assert main(["score", str(run), "--file", str(swept / "few.txt")]) == 2
    assert "expected a PATH.tsv" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`kleiber generate` does, `kleiber score` says how well"):
        load(run).generate("abc")
    assert main(["eval", str(run)]) == 0


@pytest.mark.parametrize("beam", [1, 3])
def test_generate_prints_the_target_that_the_search_finds_of_a_source(swept, capsys, monkeypatch, beam):
    searched = []
    monkeypatch.setattr(
        "kleiber.train.translations.search", lambda *given: searched.append(given[-1]) or translate(*given)
    )
    (run,) = (swept / "out" / "runs").glob("*-D640")
    found = load(run)
    source = found.tokenizer.encode([b"abc"])[0]
    (ids,) = translate(found.config.model, found.tree, [source], int(source[-1]), Beam(beam))
    expected = found.tokenizer.decode(ids).decode(errors="replace")
    assert main(["generate", str(run), "abc", "--beam", str(beam)]) == 0
    assert capsys.readouterr().out == expected + "\n" and found.translate(["abc"], beam) == [expected]
    assert main(["generate", str(run), "abc", "--beam", str(beam), "--json"]) == 0
    told = {"run": found.name, "source": "abc", "text": expected, "beam": beam}
    assert json.loads(capsys.readouterr().out) == told
    assert searched == [Beam(beam)] * 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["abc", "--temperature", "0.5"], "--temperature is of a run that goes on with a text"),
        (["abc", "--num-tokens", "3"], "--num-tokens is of a run that goes on with a text"),
        (["  "], "the source is empty"),
        (["abcdefghij"], "has 10 tokens and its end, and the encoder"),
        (["abc", "--beam", "0"], "width is 0, expected at least 1"),
    ],
)
def test_a_source_that_cannot_be_translated_is_refused(swept, capsys, line, words):
    (run,) = (swept / "out" / "runs").glob("*-D640")
    assert main(["generate", str(run), *line]) == 2
    told = capsys.readouterr().err
    assert words in told and len(told.strip().splitlines()) == 1
