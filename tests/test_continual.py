"""Going on with another text: what is replayed of the first, what is held, and what is forgotten."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import kleiber as kb
from kleiber.experiments.experiment import Experiment
from kleiber.model.adapter import AdapterConfig
from kleiber.model.config import ModelConfig
from kleiber.model.functional import init_params
from kleiber.train.config import (
    DataConfig,
    DelayedSyncConfig,
    EvalConfig,
    OptimizerConfig,
    ScheduleConfig,
    StartConfig,
    TrainConfig,
)
from kleiber.train.data.batch import Batch
from kleiber.train.data.batches import TrainBatches, check_enough
from kleiber.train.data.mixture import MixedBatches, MixedSource, batches_of
from kleiber.train.data.tokens import TokenFile
from kleiber.train.data.windows import TokenSource
from kleiber.train.ewc import EwcConfig
from kleiber.train.fisher import fisher_diagonal
from kleiber.train.gradients import gradients

MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=256, seq_len=8, has_tied_head=False)
FIRST = TrainConfig(
    MODEL, OptimizerConfig(0.02), (640,), batch_size=4, schedule=ScheduleConfig("wsd", 2, 0.5), steps_per_call=4,
    evaluation=EvalConfig(512, 4),
)  # fmt: skip
ADAPTED = replace(MODEL, adapter=AdapterConfig(rank=2))
DRAW = np.random.default_rng(0)


def source(first, rows, corpus):
    """Rows whose first token says which they are."""
    tokens = np.append(np.repeat(np.arange(first, first + rows, dtype=np.uint8), 8), np.uint8(0))
    file = TokenFile(tokens, np.array([0, rows * 8 + 1]), np.zeros(1, np.int32), "bytes", 256, rows, f"{corpus}/0")
    return TokenSource(file, 8, corpus, "train")


SOURCES = source(0, 100, "new"), source(100, 50, "old"), source(150, 20, "older")
MIXED = MixedSource(SOURCES, (0.625, 0.25, 0.125))


def test_every_stretch_of_rows_has_the_shares_and_each_corpus_the_order_that_it_has_alone():
    batches = MixedBatches(MIXED, 16, 3, None, 9.0)
    rows = batches.next_indices(40).reshape(-1)
    owners = np.searchsorted([100, 150], rows, side="right")
    for length in (16, 64, 640):
        for start in range(0, 640, length):
            counts = np.bincount(owners[start : start + length], minlength=3)
            assert np.abs(counts - length * np.array(MIXED.shares)).max() <= 2, (length, start)
    for number, first in ((0, 0), (1, 100), (2, 150)):
        own = rows[owners == number] - first
        alone = TrainBatches(SOURCES[number], 1, 3, None, 9.0).next_indices(len(own)).reshape(-1)
        np.testing.assert_array_equal(own, alone)


def test_a_mixture_is_taken_up_where_it_was_and_not_by_another():
    batches = MixedBatches(MIXED, 16, 3, None, 9.0)
    first, state = batches.next_indices(3), json.loads(json.dumps(batches.state()))
    rest = batches.next_indices(5)
    again = MixedBatches(MIXED, 16, 3, None, 9.0)
    again.restore(state)
    np.testing.assert_array_equal(again.next_indices(5), rest)
    whole = MixedBatches(MIXED, 16, 3, None, 9.0).next_indices(8)
    np.testing.assert_array_equal(whole, np.concatenate([first, rest]))
    other = MixedBatches(MixedSource(SOURCES[:2], (0.75, 0.25)), 16, 3, None, 9.0)
    with pytest.raises(ValueError, match="of another run: mixture"):
        other.restore(state)


def test_a_batch_of_a_mixture_holds_the_rows_that_its_numbers_mean():
    indices = np.array([[0, 169, 100], [7, 149, 150]])
    found = MIXED.batch(FIRST, indices, frozenset())
    assert found.inputs[..., 0].tolist() == [[0, 169, 100], [7, 149, 150]] and found.inputs.shape == (2, 3, 9)
    assert not isinstance(batches_of(FIRST, SOURCES[0]), MixedBatches) and len(MIXED) == 170


def test_each_corpus_of_a_mixture_must_be_long_enough_for_its_share():
    assert check_enough(MIXED, 800, 1.0) == pytest.approx(0.625)  # 500 of 800 tokens; 200 of 400; 100 of 160
    with pytest.raises(ValueError, match="corpus older is too short"):
        check_enough(MixedSource(SOURCES, (0.2, 0.2, 0.6)), 800, 1.0)
    assert check_enough(MIXED, 800, 1.0, 640) == pytest.approx(500 / 640)


def parameters():
    return jax.tree.map(lambda p: np.float32(p + 0.2 * DRAW.standard_normal(p.shape)), init_params(MODEL, 0))


def test_the_fisher_diagonal_is_the_mean_square_of_the_gradients_of_rows_times_their_targets():
    params, rows = parameters(), DRAW.integers(0, 256, (5, 9)).astype(np.int32)
    found = fisher_diagonal(FIRST, params, Batch(rows))
    plain = replace(FIRST, accumulation_steps=1)
    one = jax.jit(lambda row: gradients(plain, params, Batch(row), None)[1])
    squares = [jax.tree.map(np.square, one(row[None])) for row in rows]
    expected = jax.tree.map(lambda *each: 8 * np.mean(each, axis=0), *squares)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), found, expected)


def test_ewc_pulls_each_weight_back_by_its_fisher_entry_times_the_way_it_went():
    held, params = parameters(), parameters()
    fisher = jax.tree.map(lambda p: np.abs(DRAW.standard_normal(p.shape)).astype(np.float32), params)
    start = StartConfig(train=FIRST)
    config, plain = (replace(FIRST, start=start, ewc=ewc, accumulation_steps=2) for ewc in (EwcConfig(3.0), None))
    batch = Batch(DRAW.integers(0, 256, (4, 9)).astype(np.int32))
    logged, with_ewc = jax.jit(lambda p: gradients(config, p, batch, None, None, (held, fisher)))(params)
    before, without = jax.jit(lambda p: gradients(plain, p, batch, None))(params)
    assert float(logged["loss"]) == pytest.approx(float(before["loss"]), rel=1e-6)

    def check(a, b, f, p, h):
        np.testing.assert_allclose(a, b + 3 * f * (p - h), rtol=1e-3, atol=1e-5)

    jax.tree.map(check, with_ewc, without, fisher, params, held)
    squares = jax.tree.map(lambda f, p, h: float((f * (p - h) ** 2).sum()), fisher, params, held)
    assert float(logged["ewc"]) == pytest.approx(sum(jax.tree.leaves(squares)) / 2, rel=1e-4)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A sweep of three stages: each begins with the one before, and the last replays, or is held, or does neither."""
    folder, names = tmp_path_factory.mktemp("stages"), []
    for number, letters in enumerate(("abcdef", "ghijkl", "mnopqr")):
        words = ["".join(DRAW.choice(list(letters), 4)) for _ in range(200)]
        text = "\n\n".join(" ".join(DRAW.choice(words, 20)) for _ in range(200))
        (folder / f"{number}.txt").write_text(text)
        names.append(str(folder / f"{number}.txt"))
    evaluation = EvalConfig(512, 4, also=(names[0], names[1]))
    one = replace(FIRST, data=DataConfig(names[0]), evaluation=evaluation)
    two = replace(one, data=DataConfig(names[1]), start=StartConfig(train=one))
    three = replace(one, data=DataConfig(names[2]), start=StartConfig(train=two))
    mixture = ((names[0], 0.25), (names[1], 0.25))
    trunks = (
        replace(three, factors=(("method", "nothing"),)),
        replace(three, factors=(("method", "replay"),), data=DataConfig(names[2], mixture=mixture)),
        replace(three, factors=(("method", "ewc"),), ewc=EwcConfig(1e4, 512)),
    )
    experiment = Experiment("stages", "What does a method save?", trunks, laws=())
    ended = kb.sweep(experiment, folder / "out", workers=2, report=False, is_quiet=True, track=())
    assert ended.exit_code == 0, (folder / "out" / "log.txt").read_text()[-3000:]
    records = {record["run_id"]: record for record in kb.results(folder / "out").records}
    return folder / "out", experiment, records, names


def test_stages_are_trained_one_after_the_other_and_each_is_measured_on_every_text(stages):
    _, experiment, records, names = stages
    assert len(experiment.starts) == 2 and sorted(r["split"] for r in records.values()) == ["fit"] * 3 + ["start"] * 2
    third = next(r for r in records.values() if r.get("method") == "nothing")
    second = records[third["start_run"]]
    first = records[second["start_run"]]
    for record, corpus in ((first, names[0]), (second, names[1])):
        assert record[f"loss_on.{corpus}"] == record["loss"] and record["corpus"] == corpus
    assert first.get(f"forgotten_on.{names[0]}") is None
    assert second[f"forgotten_on.{names[0]}"] == second[f"loss_on.{names[0]}"] - first["loss"] > 0
    assert third[f"forgotten_on.{names[1]}"] == third[f"loss_on.{names[1]}"] - second["loss"] > 0


def test_replay_and_ewc_forget_less_and_the_answer_says_what_that_costs(stages):
    folder, _, records, names = stages
    lost = {r["method"]: r[f"forgotten_on.{names[1]}"] for r in records.values() if r.get("method")}
    assert lost["replay"] < lost["nothing"] and lost["ewc"] < lost["nothing"]
    told = kb.results(folder).ask("forgetting")
    assert told.sentence.startswith(f"Going on with {names[2]} forgets")
    assert "a second seed" in told.next[0] and len(told.basis) == 3
    assert kb.results(folder).answers.headline.startswith("Going on with")


def test_a_run_with_replay_has_seen_of_each_text_its_share(stages):
    _, _, records, _ = stages
    replayed = next(r for r in records.values() if r.get("method") == "replay")
    alone = next(r for r in records.values() if r.get("method") == "nothing")
    assert replayed["num_unique_tokens"] == alone["num_unique_tokens"] == 640
    assert replayed["epochs"] < alone["epochs"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": DataConfig("x", "sentencepiece:256", mixture=(("y", 0.5),))}, "text of bytes alone"),
        ({"evaluation": EvalConfig(also=("y",)), "data": DataConfig("x", "sentencepiece:256")}, "text of bytes alone"),
        ({"ewc": EwcConfig()}, "ewc without start"),
        (
            {"ewc": EwcConfig(), "start": StartConfig(train=FIRST), "model": ADAPTED},
            "ewc with model.adapter",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_with_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        replace(FIRST, **fields)


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ((("y", 1.0),), "expected .*0 < mixture < 1"),
        ((("y", -0.25),), "expected .*0 < mixture < 1"),
        ((("y", 0.5), ("z", 0.5)), "sums to 1: expected less than 1"),
        ((("x", 0.5),), "data.mixture names x twice, or beside corpus"),
    ],
)
def test_shares_that_leave_nothing_or_name_a_corpus_twice_are_refused(mixture, words):
    with pytest.raises(ValueError, match=words):
        DataConfig("x", mixture=mixture)


def test_replicas_are_held_as_one_run_is():
    from kleiber.train.state import Hyperparameters, optimizer_of, start_state
    from kleiber.train.step import compile_steps

    start = StartConfig(train=FIRST)
    config = replace(FIRST, start=start, ewc=EwcConfig(2.0), delayed_sync=DelayedSyncConfig(2, 4), accumulation_steps=1)
    params = parameters()
    held, fisher = jax.tree.map(lambda p: p + np.float32(0.1), params), jax.tree.map(np.ones_like, params)
    optimizer = optimizer_of(config)
    batches = Batch(DRAW.integers(0, 256, (4, 4, 9)).astype(np.int32))
    given = (Hyperparameters(np.float32(0.01), np.float32(0.1)), batches, np.ones(4, np.float32), np.uint32(0))
    steps = compile_steps(config, optimizer)
    _, log = steps(start_state(config, optimizer, params), *given, np.int32(1), anchor=(held, fisher))
    size = sum(p.size for p in jax.tree.leaves(params))
    assert float(np.asarray(log.extras["ewc"]).ravel()[0]) == pytest.approx(0.5 * 0.01 * size, rel=1e-3)
