"""Claims about answers: each study's runs give the answer that can be read off its table by hand."""

import itertools
import json
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from studies import dtypes, measured, rates_and_batches, repeats, tokenizers, trunk

from kleiber.experiments.answers.answer import Answers, answers_of
from kleiber.experiments.cli import main
from kleiber.experiments.config_file import to_data
from kleiber.experiments.directory.record import RunRecord, record_path, write_table
from kleiber.experiments.experiment import RECORD_COLUMNS, Experiment
from kleiber.experiments.planning.cells import TrunkCell, trunk_cells
from kleiber.experiments.planning.law_columns import law_problems, law_table
from kleiber.experiments.planning.plan import make_plan
from kleiber.experiments.planning.varied import varied_fields
from kleiber.experiments.report.build import execute, to_html
from kleiber.experiments.sweeping import law_stage, sweep
from kleiber.files import write_json
from kleiber.model.config import CompressionConfig, ExpertsConfig, ModelConfig
from kleiber.scaling.explaining.parabola import fit_parabola
from kleiber.scaling.fitting.fit import fit_law
from kleiber.scaling.laws import get_law, registry
from kleiber.scaling.table.table import read_table
from kleiber.train.config import DataConfig, DelayedSyncConfig, EvalConfig, OptimizerConfig, TrainConfig
from kleiber.train.data import run_data
from kleiber.train.data.tokens import TokenFile
from kleiber.train.data.windows import TokenSource


def answered(experiment: Experiment, rows: list[dict]) -> Answers:
    return answers_of(to_data(experiment), rows, Path())


def test_the_best_rate_doubles_with_the_batch_and_not_with_the_width_and_one_seed_says_how_sure():
    found = answered(*rates_and_batches())
    sentence = found.of("learning_rate").sentence
    assert sentence.startswith(
        "best learning_rate: 0.008 at batch_size 2, 0.016 at batch_size 8, at every d_model (32 and"
    )
    by_batch, by_width = found.of("learning_rate").best.moves
    assert by_batch.other == "batch_size" and by_batch.found.factor == pytest.approx(2.15, abs=0.01)  # by hand
    assert by_batch.found.is_seen and not by_width.found.is_seen and by_batch.found.degrees == 4
    assert "no move with d_model can be told" in sentence and found.lines[0] == sentence
    assert any("One seed" in line and "off their parabolas" in line for line in found.lines)
    assert [line for line in found.lines if "two more seeds" in line] == [found.lines[-1]]
    assert "8 costs 0.143 (d_model 32) and 0.143 (d_model 64)" in found.of("batch_size").sentence  # 2.124 - 1.981


def test_passes_are_told_against_each_other_with_the_best_decay_and_the_missing_fresh_run():
    found = answered(*repeats())
    assert found.of("weight_decay").sentence == "best weight_decay: 0 at epochs 1, 0.1 at epochs 4 and 16."
    sentence = found.of("epochs").sentence  # 1.7447 - 1.5411 and 2.2175 - 1.7447
    assert "16 saves 0.163 (weight_decay 0), 0.204 (weight_decay 0.1) and 0.154 (weight_decay 1)" in sentence
    assert "4 saves 0.461 (weight_decay 0), 0.473 (weight_decay 0.1)" in sentence
    fresh = next(line for line in found.lines if "no fresh-data line" in line)
    assert "262,144 and 1,048,576 tokens of fresh text" in fresh


def test_a_difference_within_its_interval_cannot_be_told_from_none():
    found = answered(*dtypes())
    (effect,) = found.of("dtype").effects
    # -.010, .003, -.002, .001: mean -.002, standard deviation .0057, t of 3 degrees 3.182, four pairs
    assert effect.mean == pytest.approx(-0.002) and effect.num_units == 4
    assert effect.interval == pytest.approx((-0.002 - 3.1824 * 0.005715 / 2, -0.002 + 3.1824 * 0.005715 / 2), abs=1e-4)
    assert "cannot be told from none (4 pairs, 8 runs)" in found.lines[0]
    assert found.of("d_model").effects[0].is_seen and found.of("compute_dtype") is found.of("dtype")


def test_tokenizers_are_compared_in_bits_per_byte_with_what_changed_beside_them():
    found = answered(*tokenizers())
    assert found.lines[0] == (
        "tokenizer_kind: sentencepiece:1000 saves 0.255 (d_model 32) and 0.169 (d_model 64) bits per byte against "
        "bytes; num_tokens (300,032 at bytes and 100,096 at sentencepiece:1000) changed with it, and which of them "
        "does it cannot be told."
    )
    said = " ".join(found.lines)
    assert "vocab_size and num_tokens" in said and "Parameters differ too" in said
    assert "same 262,144 bytes of text" in said and "Trained on about so many bytes" in said
    assert found.of("tokenizer").factor == found.of("data.tokenizer").factor == "tokenizer_kind"
    with pytest.raises(ValueError, match="did you mean 'd_model'"):
        found.of("d_modle")


def study(question: str, losses: dict[tuple, float], lost: str = "") -> Answers:
    """The answers of runs by (learning_rate, batch_size, seed); a NaN is a run that was lost."""
    rates, batches, seeds = zip(*losses, strict=True)
    trunks = tuple(trunk(rate=r, batch_size=b, seed=s) for r, b, s in zip(rates, batches, seeds, strict=True))
    experiment = Experiment("e", question, trunks, laws=())

    def loss(cell: TrunkCell, _: int) -> float:
        config = cell.config
        return losses[config.optimizer.learning_rate, config.batch_size, config.seed]

    rows = measured(experiment, loss)
    for row in rows:
        if math.isnan(row["loss"]):
            row |= {"status": lost, "loss": None}
    return answered(experiment, rows)


def planted(question: str, trunks, loss_of, jitter: float = 0.004) -> Answers:
    """The answers of runs whose loss is that of the config; every second seed is off by the jitter."""
    experiment = Experiment("e", question, tuple(trunks), laws=())
    rows = measured(experiment, lambda cell, _: loss_of(cell.config) + jitter * (cell.config.seed % 2))
    for row in rows:
        if math.isnan(row["loss"]):
            row |= {"status": "diverged", "loss": None}
    return answered(experiment, rows)


def test_yes_and_no_and_what_is_left_out_are_levels_like_any_other():
    both = [trunk(d, shape={"has_tied_head": tied}) for d in (16, 32) for tied in (True, False)]
    found = planted("Does tying the embeddings cost?", both, lambda c: 2 + 0.25 * c.model.has_tied_head)
    assert found.headline.startswith(
        "has_tied_head: yes costs 0.250 (d_model 16) and 0.250 (d_model 32) nats per token"
    )
    norms = [trunk(optimizer={"clip_norm": norm}) for norm in (None, 0.5, 2.0)]
    found = planted("Does clipping help?", norms, lambda c: {None: 2.5, 0.5: 2.0, 2.0: 2.25}[c.optimizer.clip_norm])
    assert "0.5 saves 0.500 nats per token against none; 2 saves 0.250 nats per token against none" in found.headline
    experts = [trunk(shape={"experts": e and ExpertsConfig(e)}) for e in (None, 2, 4)]
    found = planted("Do experts help?", experts, lambda c: 2.0 - bool(c.model.experts) / 4)
    assert found.headline.startswith("num_experts: 2 saves 0.250 nats per token against none")
    assert "changed with it" not in found.headline  # what every run with experts has alike


def test_a_table_of_numbers_and_none_or_of_numbers_and_words_is_written_and_answers_alike(tmp_path):
    sizes, cuts = (None, 32, 64), (1, 2, "all")
    trunks = [trunk(shape={"d_ff": d}, factors=(("cut", cut),)) for d in sizes for cut in cuts]
    experiment = Experiment("e", "Which d_ff?", tuple(trunks), laws=())
    rows = measured(experiment, lambda cell, _: 2 + (cell.config.model.d_ff or 96) / 256)
    records = [RunRecord.from_json(row, Path()) for row in rows]
    write_table(tmp_path, records)
    table = pq.read_table(tmp_path / "table.parquet").to_pylist()
    assert {row["factor.d_ff"] for row in table} == set(sizes) and {row["cut"] for row in table} == {"1", "2", "all"}
    assert answered(experiment, table).lines == answered(experiment, rows).lines
    assert answered(experiment, table).headline.startswith("d_ff: 32 saves 0.250")  # 96 / 256 - 32 / 256


def test_the_better_level_may_depend_on_another_factor_and_the_headline_says_on_which():
    at = {(0.004, 2): 2.0, (0.016, 2): 2.1, (0.004, 8): 2.2, (0.016, 8): 2.1}
    trunks = [trunk(d, r, batch_size=b, seed=s) for d in (16, 32) for r, b in at for s in (0, 1)]
    found = planted("Is .016 better?", trunks, lambda c: at[c.optimizer.learning_rate, c.batch_size])
    assert found.of("learning_rate").sentence.startswith(
        "learning_rate: which is better depends on batch_size: 0.016 saves 0.100 ±"
    )
    assert "(batch_size 8) and costs 0.100 ±" in found.of("learning_rate").sentence  # the width tells nothing
    at = {("adamw", 0.004): 2.0, ("adamw", 0.016): 2.2, ("muon", 0.004): 2.1, ("muon", 0.016): 1.95}
    trunks = [trunk(rate=r, optimizer={"name": o}, seed=s) for o, r in at for s in (0, 1)]
    found = planted("Is muon better?", trunks, lambda c: at[c.optimizer.name, c.optimizer.learning_rate])
    assert "depends on learning_rate" in found.headline
    assert "each at its best learning_rate of those tried, muon saves 0.050 ±" in found.headline  # 2.0 - 1.95


def test_each_optimizer_is_taken_at_its_own_best_rate_even_where_they_share_few():
    best = {"adamw": (2.0, 0.008), "muon": (1.95, 0.032), "sgd": (2.4, 0.064)}
    rates = {"adamw": (0.004, 0.008, 0.016), "muon": (0.016, 0.032, 0.064), "sgd": (0.032, 0.064, 0.128)}

    def loss(c):
        floor, rate = best[c.optimizer.name]
        return floor + 0.05 * math.log2(c.optimizer.learning_rate / rate) ** 2

    trunks = [trunk(rate=r, optimizer={"name": o}) for o in best for r in rates[o]]
    found = planted("Which optimizer is best, and at which learning rate?", trunks, loss)
    assert "best optimizer: muon; it leads adamw by 0.050 nats per token" in found.headline
    assert (
        "best learning_rate: 0.008 at optimizer adamw, 0.032 at optimizer muon, 0.064 at optimizer sgd"
        in found.headline
    )


def test_what_always_changes_together_is_named_as_asked_and_not_told_apart():
    trunks = [trunk(rate=r, batch_size=b, seed=s) for r, b in ((0.004, 2), (0.008, 4), (0.016, 8)) for s in (0, 1)]
    found = planted("Which batch size is best?", trunks, lambda c: 2 + 0.1 * math.log2(c.batch_size / 4) ** 2)
    assert found.headline.startswith("best batch_size: 4; it leads")
    assert "learning_rate (0.004 at 2, 0.008 at 4 and 0.016 at 8) changed with it, and which of them does it cannot be "
    trunks = [trunk(seed=s, factors=(("order", name),)) for s, name in enumerate("ab")]
    assert "seed (0 at a and 1 at b) changed with it" in planted("Does order matter?", trunks, lambda c: 2.0).headline


def test_levels_that_do_nothing_cannot_be_told_apart_and_few_pairs_use_the_noise_of_all_runs():
    trunks = [trunk(shape={"activation": a}, seed=s) for a in ("relu_squared", "silu", "gelu") for s in (0, 1, 2)]
    found = planted("Does the activation matter?", trunks, lambda c: 2 + 0.001 * (c.model.activation == "gelu"), 0.01)
    noise = 0.01 / math.sqrt(3)  # of 0, .01, 0
    half = 3.287 * noise * math.sqrt(2 / 3)  # t of six degrees, three looks: 1 - .05 / 6
    assert found.headline == (
        f"activation: relu_squared, silu and gelu cannot be told apart: no two differ by more than 0.0010 ± {half:.3f} "
        "nats per token (9 runs)."
    )
    trunks = [
        trunk(shape={"has_qk_norm": q, "is_gated": g}, seed=s)
        for q, g in ((False, False), (True, False), (False, True))
        for s in (0, 1)
    ]
    found = planted("Which helps?", trunks, lambda c: 2 - 0.1 * c.model.has_qk_norm)
    half = 3.182446 * (0.004 / math.sqrt(2))  # t of three degrees, not 12.7 of the one that two pairs have
    assert f"has_qk_norm: yes saves 0.100 ± {half:.4f} nats per token against no" in found.headline


def test_runs_that_share_no_seed_are_compared_by_their_means():
    trunks = [
        trunk(d, shape={"norm": n}, seed=100 * d + 10 * i + s)
        for d in (16, 32) for i, n in enumerate(("rmsnorm", "layernorm")) for s in (0, 1, 2)
    ]  # fmt: skip
    found = planted("Is layernorm worse?", trunks, lambda c: 2 + 0.05 * (c.model.norm == "layernorm"))
    half = 2.306004 * 0.004 / math.sqrt(3) * math.sqrt(4 / 3) / 2  # t of eight degrees; two places of three and three
    assert f"layernorm costs 0.050 ± {half:.4f} nats per token against rmsnorm" in found.headline


def test_a_batch_is_told_at_equal_tokens_and_at_equal_steps():
    trunks = [trunk(batch_size=b, tokens=(n,)) for b in (2, 4, 8) for n in sorted({102_400, 25_600 * b})]
    tokens = lambda c: 2.5 - 0.1 * math.log2(c.num_tokens[0] / 51_200) + 0.05 * math.log2(c.batch_size)  # noqa: E731
    headline = planted("Is a larger batch better at fixed tokens, and at fixed steps?", trunks, tokens).headline
    assert "best batch_size: 2 at num_tokens 102,400; it leads 4 by 0.050" in headline
    assert (
        "At equal steps, best batch_size: 8 at num_steps 400; it leads 4 by 0.050" in headline
    )  # -.1 + .05 a doubling; steps of 64 tokens a row


def test_losses_of_other_texts_are_not_compared_and_the_plan_says_so_before():
    trunks = [trunk(data=DataConfig(corpus=name), seed=s) for name in ("cloud-docs", "wiki-passages") for s in (0, 1)]
    found = planted("Which mixture is best?", trunks, lambda c: 2.0 + (c.data.corpus == "wiki-passages"))
    assert "each level is scored on its own text" in found.headline and not found.answers[0].effects
    assert any("kleiber eval RUN --text FILE" in line for line in found.lines)
    warned = make_plan(Experiment("e", "?", tuple(trunks), laws=()), 1).warnings
    assert any("data.corpus, which says what a run is scored on" in each for each in warned)


def test_shapes_of_equal_size_have_a_best_one_and_a_level_that_always_diverged_is_the_answer():
    losses = {(16, 12): 2.20, (24, 5): 2.10, (32, 3): 2.05, (56, 1): 2.15}
    trunks = [
        TrainConfig(ModelConfig(d, layers, 2, seq_len=64), OptimizerConfig(0.008), (100_000,)) for d, layers in losses
    ]
    found = planted("Deep or wide?", trunks, lambda c: losses[c.model.d_model, c.model.num_layers])
    assert found.headline.startswith("best num_layers: 3; it leads 5 by 0.050")
    assert "d_model (56 at 1, 32 at 3, 24 at 5 and 16 at 12) changed with it" in found.headline
    rates = [trunk(rate=r, seed=s) for r in (0.01, 0.1) for s in (0, 1)]
    found = planted("Which rate?", rates, lambda c: math.nan if c.optimizer.learning_rate == 0.1 else 2.0, 0.0)
    assert found.headline == (
        "learning_rate: only 0.01 came to a loss, 2.0000 nats per token on average; 0.1 diverged in 2 of 2 runs."
    )


def test_what_the_question_names_comes_first_and_alone_makes_the_headline():
    losses = {(rate, batch, 0): 2 + rate + batch / 100 for rate in (0.1, 0.2) for batch in (2, 8)}
    for question, first in (("Is a batch of 8 bad?", "batch_size"), ("Which learning rate?", "learning_rate")):
        found = study(question, losses)
        assert found.answers[0].factor == first
        assert found.headline == f"{found.answers[0].sentence} (One seed: the noise of a run is not measured.)"
    assert study("Which learning rate at which batch?", losses).num_asked == 2


def test_seeds_alone_are_answered_with_their_mean_and_the_noise_of_one():
    values = np.array([2.00, 2.02, 1.99, 2.03])
    found = study("How large is the noise?", {(0.1, 2, seed): value for seed, value in enumerate(values)})
    spread, half = values.std(ddof=1), 3.182446 * values.std(ddof=1) / 2
    low, high = spread * np.sqrt(3 / np.array([9.348404, 0.2157953]))  # chi-square of three degrees, 2.5 % each side
    assert found.headline.startswith(f"4 seeds: {values.mean():.4f} ± {half:.3f} nats per token on average")
    assert f"varies by {spread:.3f} [{low:.3f}, {high:.3f}]" in found.headline
    assert found.of("seed").factor == "seed"


def test_a_lead_within_the_noise_of_seeds_and_a_best_at_the_edge_are_said_to_be_so():
    losses = {(0.1, 2): (2.0, 2.1), (0.2, 2): (2.06, 2.02), (0.4, 2): (3.0, 3.1), (0.1, 8): (3.0, 3.1)}
    losses |= {(0.2, 8): (2.5, 2.6), (0.4, 8): (2.0, 2.1)}
    found = study("Which learning rate?", {(*at, s): v for at, both in losses.items() for s, v in enumerate(both)})
    assert "0.4 is the largest tried, so that the best may lie beyond" in found.headline
    assert "within the noise of seeds at batch_size 2" in found.headline
    assert any("learning_rate 0.8, as the best, 0.4, is the largest tried" in line for line in found.lines)


def test_where_the_best_two_are_alike_the_third_is_told_to_be_worse_and_seeds_are_asked_for_only_if_it_matters():
    losses = {16: (2.001, 2.019), 64: (2.000, 2.021), 256: (2.110, 2.128)}
    trunks = [trunk(shape={"seq_len": length}, batch_size=1024 // length, seed=s) for length in losses for s in (0, 1)]
    experiment = Experiment("context", "Does a longer context help?", tuple(trunks), laws=())
    rows = measured(experiment, lambda cell, _: losses[cell.config.model.seq_len][cell.config.seed])
    found = answered(experiment, rows).of("seq_len")
    # one run varies by .0134 (3 degrees, t 3.182); of two pairs the interval is by that: 3.182 x .0134 = .0427
    assert found.sentence.startswith("best seq_len: 16 or 64, which cannot be told apart; 256 costs 0.109 ± 0.043 nats")
    (advice,) = found.next
    assert advice.startswith("more seeds, if a difference as small as 0.0005 matters") or advice.startswith(
        "nothing more"
    )


def test_an_effect_of_one_place_alone_has_the_interval_of_its_pairs_and_none_is_claimed_at_the_other():
    pairs = {8_000: (-0.50, -0.45, -0.43), 200_000: (0.03, 0.05, 0.04)}  # seeds move both runs of a pair alike, by .2
    trunks = tuple(
        trunk(shape={"dropout": rate}, seed=s, data=DataConfig(num_unique_tokens=unique, max_epochs=99))
        for unique in pairs for rate in (0.0, 0.1) for s in range(3)
    )  # fmt: skip
    experiment = Experiment("dropout", "Does dropout help?", trunks, laws=())

    def loss(cell: TrunkCell, _: int) -> float:
        config = cell.config
        return 2 + 0.2 * config.seed + (config.model.dropout > 0) * pairs[config.data.num_unique_tokens][config.seed]

    found = answered(experiment, measured(experiment, loss)).of("dropout")
    # pooled: squares .0026 + .0002 over 4 degrees, .02646; t 2.776; of three pairs: .0424
    assert found.sentence == (
        "dropout: what it does depends on num_unique_tokens: 0.1 saves 0.460 ± 0.042 (num_unique_tokens 8000) and has "
        "an effect that cannot be told from none (num_unique_tokens 200,000: costs 0.040 ± 0.042) nats per token "
        "against 0."
    )
    assert found.to_json()["effects"][0]["differs_by_place"] and not found.next


def test_a_batch_or_a_row_that_sets_the_steps_says_how_many_they_are():
    trunks = tuple(trunk(shape={"seq_len": length}, batch_size=8, tokens=(131_072,)) for length in (64, 256))
    experiment = Experiment("context", "Does a longer context help?", trunks, laws=())
    rows = measured(experiment, lambda cell, _: 2.0 if cell.config.model.seq_len == 64 else 2.4)
    sentence = answered(experiment, rows).of("seq_len").sentence
    assert sentence.endswith(
        "; it also sets num_steps (256 at 64 and 64 at 256), which may be why."
    )  # 131,072 / 8 / 64


def test_a_difference_that_seeds_tell_apart_from_place_to_place_is_told_place_by_place():
    losses = {(0.1, 2): 2.0, (0.2, 2): 2.5, (0.1, 8): 2.6, (0.2, 8): 2.4}
    spread = {(*at, seed): value + 0.01 * seed for at, value in losses.items() for seed in (0, 1)}
    sentence = study("Which learning rate?", spread).headline
    half = 2.776445 * 0.01 / math.sqrt(2)  # t of four degrees, the noise .01 / sqrt 2, two pairs a place
    assert f"saves 0.200 ± {half:.3f} (batch_size 8) and costs 0.500 ± {half:.3f} (batch_size 2)" in sentence


def test_a_level_that_diverged_is_named_and_is_no_place_beyond_which_to_look():
    losses = {(0.1, 2, 0): 2.2, (0.2, 2, 0): 2.1, (0.4, 2, 0): 2.0, (0.8, 2, 0): math.nan}
    found = study("Which learning rate?", losses, "diverged")
    assert found.headline.startswith("best learning_rate: 0.4") and "may lie beyond" not in found.headline
    assert any("1 of 4 points diverged" in line and "learning_rate 0.8" in line for line in found.lines)
    failed = study("Which learning rate?", losses, "failed")
    assert "may lie beyond" in failed.headline and any("1 of 4 points failed" in line for line in failed.lines)


def test_only_the_seed_may_differ_within_a_cell():
    found = answered(*rates_and_batches())
    assert found.study.num_seeds == 1  # batch and width are factors, so no two runs are seeds of one cell


def test_a_field_that_follows_another_is_no_factor_of_its_own_and_a_label_is_none():
    wide = [TrunkConfig(d, heads, rate) for d, heads in ((32, 4), (64, 8)) for rate in (0.1, 0.2)]
    factors = varied_fields([each.config for each in wide])
    assert [each.name for each in factors] == ["d_model", "learning_rate"]
    assert factors[0].goes_with == ("num_heads", "model.num_heads")
    named = [replace(each.config, factors=(("cell", f"{index}"),)) for index, each in enumerate(wide)]
    assert [each.name for each in varied_fields(named)] == ["d_model", "learning_rate"]
    assert [each.name for each in varied_fields(to_data(Experiment("e", "?", tuple(named), laws=()))["trunks"])] == [
        "d_model",
        "learning_rate",
    ]


def test_a_name_of_fields_that_change_together_is_the_factor_and_they_go_with_it():
    ways = {"all": (0.004, 0.0, "sgd"), "few": (0.016, 0.1, "adamw"), "none": (0.01, 0.2, "adamw"),
            "new": (0.01, 0.0, "adamw")}  # fmt: skip
    trunks = [
        trunk(rate=rate, optimizer={"weight_decay": decay, "name": name}, seed=seed, factors=(("way", way),))
        for seed in (0, 1)
        for way, (rate, decay, name) in ways.items()
    ]
    assert [each.name for each in varied_fields(trunks)] == ["way"]


class TrunkConfig:
    """A trunk by width, heads and rate."""

    def __init__(self, d_model: int, heads: int, rate: float):
        model = ModelConfig(d_model, 2, heads, seq_len=64)
        self.config = TrainConfig(model, OptimizerConfig(rate), (1000,))


def test_a_field_without_a_column_gets_one_and_every_level_is_in_the_label():
    experts = (ExpertsConfig(4, num_active=1), ExpertsConfig(4, num_active=2))
    trunks = tuple(trunk(16, shape={"experts": each}) for each in experts)
    cells = trunk_cells(Experiment("e", "?", trunks, laws=()), "fit")
    rows = [row.to_json() for cell in cells for row in cell.planned.values()]
    assert sorted(row["factor.num_active"] for row in rows) == [1, 2]
    assert sorted(cell.label for cell in cells) == ["d16-L2-s0 num_active 1", "d16-L2-s0 num_active 2"]


def varied_for(law: str) -> tuple[TrainConfig, ...]:
    """Runs of three sizes and lengths that differ in all that a law knows: by fields, else by factors of that name."""
    further = [name for name in get_law(law).variable_names if name not in ("num_params_total", "num_tokens")]
    trunks = []
    for seed, (width, *places) in enumerate(itertools.product((16, 32, 48), range(3), range(2))):
        shape: dict = {}
        changes: dict = {"batch_size": 8}
        for index, name in enumerate(further):
            place = places[index % 2]
            if name in ("num_experts_effective", "num_experts", "num_params_active"):
                shape["experts"] = ExpertsConfig((2, 4, 8)[place], 2)
            elif name == "granularity":
                shape |= {"experts": ExpertsConfig(4, 2), "d_ff": width * (4, 2, 1)[place]}
            elif name == "weight_bits":
                shape["compute_dtype"] = ("float32", "bfloat16", "bfloat16")[place]
            elif name == "sparsity":
                shape["compression"] = CompressionConfig(sparsity=(0.0, 0.5, 0.75)[place])
            elif name == "learning_rate":
                changes["rate"] = (0.004, 0.008, 0.016)[place]
            elif name == "batch_size":
                changes["batch_size"] = (2, 4, 8)[place]
            elif name == "num_replicas":
                changes["delayed_sync"] = (None, DelayedSyncConfig(2), DelayedSyncConfig(4))[place]
            elif name == "num_unique_tokens":
                changes["data"] = DataConfig(num_unique_tokens=(None, 20_000, 40_000)[place], max_epochs=40)
            elif name not in RECORD_COLUMNS:
                changes["factors"] = (*changes.get("factors", ()), (name, (0.25, 0.5, 0.75)[place]))
        trunks.append(trunk(width, tokens=(50_000, 120_000, 300_000), shape=shape, seed=seed, **changes))
    return tuple(trunks)


@pytest.mark.parametrize("law", sorted(registry()))
def test_a_sweep_that_varies_all_that_a_law_knows_passes_the_plan_and_its_table_is_fitted(law):
    experiment = Experiment("e", "?", varied_for(law), laws=(law,))
    cells = trunk_cells(experiment, "fit")
    points = [each for cell in cells for each in cell.planned.values()]
    problems = law_problems(experiment, points, [cell.config for cell in cells for _ in cell.planned])
    if law in ("accuracy", "batch_size", "learning_rate", "transfer"):  # of something else than losses
        assert "not of losses" in problems[0]
        return
    assert not problems
    rng = np.random.default_rng(0)

    def loss(cell: TrunkCell, index: int) -> float:
        size, tokens = cell.config.model.d_model**2, cell.config.num_tokens[index]
        return (1.5 + 30 / size**0.5 + 200 / tokens**0.5) * math.exp(0.003 * rng.standard_normal())

    rows = measured(experiment, loss)
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fit_law(law_table(read_table(columns), law), law, starts=2).num_points == len(rows)


def test_the_plan_refuses_a_law_whose_column_no_config_tells_and_warns_of_a_router_that_learns_nothing():
    ladder = tuple(trunk(d, tokens=(50_000, 100_000, 200_000, 400_000)) for d in (16, 32, 48))
    refusals = make_plan(Experiment("e", "?", ladder, laws=("experts",)), 1).refusals
    assert any("num_experts_effective" in each for each in refusals)  # one expert everywhere
    blind = tuple(
        trunk(d, tokens=(50_000, 100_000, 400_000), shape={"experts": ExpertsConfig(e, 1)})
        for d in (16, 32, 48)
        for e in (1, 4)
    )
    plan = make_plan(Experiment("e", "?", blind, laws=("experts",)), 1)
    assert not plan.refusals and any("teaches the router nothing" in each for each in plan.warnings)


def test_the_vocabulary_follows_the_tokenizer_and_a_wrong_one_is_refused_with_the_right_number():
    follows = trunk(data=DataConfig(tokenizer="sentencepiece:1000"))
    assert follows.model.vocab_size == 1000
    wrong = trunk(data=DataConfig(tokenizer="sentencepiece:1000"), shape={"vocab_size": 999})
    (refusal,) = make_plan(Experiment("e", "?", (wrong,), laws=()), 1).refusals
    assert "vocab_size=1000" in refusal


def test_runs_of_two_tokenizers_are_scored_on_the_same_bytes_and_runs_of_one_as_before():
    both = (trunk(), trunk(data=DataConfig(tokenizer="sentencepiece:1000")))
    asked = {each.evaluation.num_bytes for each in Experiment("e", "?", both, laws=()).trunks}
    assert asked == {262_144}
    assert Experiment("e", "?", both[:1], laws=()).trunks[0].evaluation.num_bytes is None


def test_the_diamond_lies_on_the_parabola():
    rates, best = np.array([0.004, 0.008, 0.016, 0.032]), 0.0117
    losses = 2.0 * np.exp(0.05 * np.log(rates / best) ** 2)
    found = fit_parabola(rates, losses)
    assert found.vertex == pytest.approx(best) and found.loss(found.vertex) == pytest.approx(2.0)
    assert found.loss(0.016) == pytest.approx(losses[2]) and found.squares == pytest.approx(0, abs=1e-20)


def test_ask_prints_the_answer_of_a_directory(tmp_path, capsys):
    experiment, rows = repeats()
    found = answered(experiment, rows)
    (tmp_path / "experiment.json").write_text(json.dumps(to_data(experiment)))
    for run in found.study.runs:
        path = record_path(tmp_path, run.record["run_id"])
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(run.record))
    assert main(["ask", str(tmp_path), "weight_decay"]) == 0
    assert capsys.readouterr().out.startswith("best weight_decay: 0 at epochs 1, 0.1 at epochs 4 and 16.")
    assert main(["ask", str(tmp_path), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [each["factor"] for each in answers] == ["weight_decay", "epochs"]
    assert main(["ask", str(tmp_path), "dropout"]) == 2 and "does not vary" in capsys.readouterr().err
    page = to_html(*execute(tmp_path, {"law", "target"})[:1], "repeat", "x")
    assert "best weight_decay: 0 at epochs 1, 0.1 at epochs 4 and 16" in page
    for words in ("The law", "Constants", "no forecast", "fits no law", "The ledger", "callout bad"):
        assert words not in re.sub("<style>.*?</style>", "", page, flags=re.S)


def test_a_fit_that_fails_after_training_is_told_with_exit_3_and_the_answer(tmp_path, monkeypatch):
    trunks = tuple(trunk(d, tokens=(50_000, 100_000, 200_000, 400_000)) for d in (16, 32, 48))
    experiment = Experiment("late", "?", trunks, laws=("chinchilla",))
    write_json(tmp_path / "experiment.json", to_data(experiment))
    for row in measured(experiment, lambda cell, index: 3.0 - 0.1 * index):
        path = record_path(tmp_path, row["run_id"])
        path.parent.mkdir(parents=True)
        write_json(path, row)

    def fails(*_):
        raise ValueError("no start gives a finite minimum")

    monkeypatch.setattr(law_stage, "fit_laws", fails)
    monkeypatch.setattr(sweep, "prepare_data", lambda *_: None)
    ended = sweep.run_sweep(experiment, tmp_path, 1, is_quiet=True, has_report=False)
    assert ended.exit_code == 3 and "no start gives a finite minimum" in ended.summary["gate"][0]["claim"]
    assert (tmp_path / "result.json").exists() and ended.summary["answer"]


def test_every_tokenizer_is_scored_on_the_same_documents(monkeypatch):
    lengths = np.array([10, 40, 20, 70, 30, 50, 60, 20])  # bytes of eight documents; two bytes are one of its tokens

    def source(name: str, per: int) -> TokenSource:
        offsets = np.concatenate([[0], np.cumsum(lengths // per)])
        tokens = np.repeat(np.arange(8), lengths // per).astype(np.uint8)  # a token says which document it is of
        file = TokenFile(tokens, offsets, np.arange(8, dtype=np.int32), name, 256, int(lengths.sum()), "f")
        return TokenSource(file, 4, "c", "validation")

    monkeypatch.setattr(run_data, "open_token_file", lambda *_: source("bytes", 1).file)
    config = trunk(evaluation=EvalConfig(num_bytes=150))
    found = [run_data._same_text(config, source("any", per), Path()).file for per in (1, 2)]
    assert set(found[0].tokens) == set(found[1].tokens) == {0, 2, 4, 6}  # 150 of 300 bytes: every other document
    assert found[0].num_text_bytes == found[1].num_text_bytes == 10 + 20 + 30 + 60
    assert len(found[0].tokens) == 2 * len(found[1].tokens) == 120
