"""Levels of compression: weights left out, levels that share a trunk, what they are worth."""

from dataclasses import replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.experiments.answers.study_runs import StudyRun, StudyRuns
from kleiber.experiments.answers.worth import worth_lines, worths
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import group_id, populations, trunk_cells
from kleiber.experiments.planning.varied import Factor
from kleiber.model.compress.pruning import kept
from kleiber.model.compress.tree import begin, prune
from kleiber.model.config import CompressionConfig, ModelConfig
from kleiber.model.functional import init_params
from kleiber.train import trunk as trunk_module
from kleiber.train.checkpoints import checkpoint
from kleiber.train.checkpoints.identity import run_identity
from kleiber.train.config import EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from kleiber.train.data.run_data import open_run_data
from kleiber.train.data.tokens import TokenFile
from kleiber.train.data.windows import TokenSource
from kleiber.train.trunk import Diverged, Trunk, TrunkIO

MODEL = ModelConfig(d_model=8, num_layers=1, num_heads=2, vocab_size=32, seq_len=8)
DENSE = TrainConfig(
    MODEL, OptimizerConfig(0.02), (320, 640), batch_size=2, schedule=ScheduleConfig("wsd", 2, 0.5), steps_per_call=4,
    evaluation=EvalConfig(64, 4),
)  # fmt: skip
"""Steps of 16 tokens: branches of 20 and 40 steps, of which the last half cools down."""


def level(config=DENSE, when="cooldown", **fields):
    return replace(config, model=replace(config.model, compression=CompressionConfig(**fields)), compressed_from=when)


LEVELS = (
    DENSE, level(weight_bits=3), level(sparsity=0.5, pattern="2:4"), level(when="end", weight_bits=3),
    level(when="end", sparsity=0.75, weight_bits=4),
)  # fmt: skip


@pytest.fixture(autouse=True)
def tokens_of_no_corpus(monkeypatch):
    def source(data, split, seq_len):
        tokens = (np.cumsum(np.random.default_rng(len(split)).integers(1, 4, 1201)) % 32).astype(np.uint8)
        file = TokenFile(tokens, np.array([0, 1201]), np.zeros(1, np.int32), "bytes", 32, 1201, "x/0")
        return TokenSource(file, seq_len, "test", split)

    monkeypatch.setattr("kleiber.train.data.run_data.open_tokens", source)


def run(configs, folder, num_logs=1, **io):
    points, logs = [], [folder / f"{number}" for number in range(num_logs)]
    final = lambda place, tokens: folder / f"final-{place}-{tokens}"  # noqa: E731
    trunk = Trunk(
        configs,
        open_run_data(configs[0]),
        TrunkIO(folder, logs, points.append, lambda tokens: False, final_folder=final, **io),
    )
    trunk.run()
    return {(point.member, point.num_tokens): point for point in points}, trunk


def test_the_entries_kept_of_every_m_are_the_best_of_all_choices():
    weight = np.random.default_rng(0).standard_normal((8, 3))
    found = np.asarray(kept(jnp.asarray(weight), CompressionConfig(sparsity=0.5, pattern="2:4")))
    for f in range(3):
        for start in (0, 4):
            sizes = np.abs(weight[start : start + 4, f])
            best = max(combinations(range(4), 2), key=lambda pair: sizes[list(pair)].sum())
            assert np.flatnonzero(found[start : start + 4, f]).tolist() == sorted(best)


@pytest.mark.parametrize("pattern", ["matrix", "global"])
def test_pruning_leaves_the_largest_of_a_matrix_or_of_all_and_tables_whole(pattern):
    model = replace(MODEL, num_layers=2, compression=CompressionConfig(sparsity=0.75, pattern=pattern))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + rng.standard_normal(p.shape).astype(p.dtype), init_params(model, 0))
    before = [p for p in jax.tree.leaves(params["blocks"]) if p.ndim > 1]
    after = [np.asarray(p) for p in jax.tree.leaves(prune(model, params)["blocks"]) if p.ndim > 1]
    groups = [(before, after)] if pattern == "global" else [([a], [b]) for a, b in zip(before, after, strict=True)]
    for old, new in groups:
        sizes = np.abs(np.concatenate([each.ravel() for each in old]))
        left = np.concatenate([each.ravel() for each in new])
        assert np.count_nonzero(left) == round(0.25 * len(sizes))
        assert np.abs(left[left != 0]).min() == np.sort(sizes)[round(0.75 * len(sizes))]
    np.testing.assert_array_equal(prune(model, params)["input"]["embedding"], params["input"]["embedding"])


def test_a_level_that_changes_no_weight_is_refused():
    few, half = level(weight_bits=4).model, level(sparsity=0.5).model
    params = jax.tree.map(jnp.asarray, init_params(MODEL, 0))
    assert begin(MODEL, few, params) is params and begin(few, few, params) is params
    pruned = begin(MODEL, half, params)
    with pytest.raises(ValueError, match="changes no weight, so that its level would be that of none"):
        begin(MODEL, half, pruned)
    with pytest.raises(ValueError, match="changes no weight"):
        begin(MODEL, few, jax.tree.map(jnp.zeros_like, params))


def test_levels_that_share_a_trunk_have_the_losses_of_trunks_of_their_own(tmp_path):
    together, trunk = run(LEVELS, tmp_path / "together")
    assert trunk.totals.trained_tokens == 320 + 3 * (160 + 320)  # one plateau; those of the end cool down as the dense
    for place, config in enumerate(LEVELS):
        alone, _ = run([config], tmp_path / f"alone-{place}")
        for num_tokens in config.num_tokens:
            assert alone[0, num_tokens].evaluation == together[place, num_tokens].evaluation
    losses = [together[place, 640].evaluation.loss for place in range(len(LEVELS))]
    assert len(set(losses)) == len(LEVELS)


def test_a_pruned_level_keeps_its_zeros_to_the_end_and_no_others(tmp_path):
    run(LEVELS, tmp_path)
    for place, share in ((0, 0.0), (2, 0.5), (4, 0.75)):
        like = {"params": init_params(MODEL, 0)}
        found = checkpoint.restore(tmp_path / f"final-{place}-640", 40, like, run_identity([LEVELS[place]])).state
        blocks = found["params"]["blocks"]["00"]
        for name in ("query", "key", "value", "output"):
            assert np.mean(np.asarray(blocks["attention"][name]) == 0) == share


def test_levels_that_are_recorded_are_not_trained_again(tmp_path):
    points, trunk = run(LEVELS, tmp_path, is_done=lambda place, num_tokens: place != 2)
    assert points.keys() == {(2, 320), (2, 640)} and trunk.totals.trained_tokens == 320 + 160 + 320


def test_a_level_that_diverges_leaves_the_others_be(tmp_path, monkeypatch):
    look = Trunk._look

    def breaks(self, run, call, branch, total, started):
        if "_" in branch.removeprefix("branch_"):  # every branch but the dense one
            run.skips.reasons[0] = "loss is not finite"
            raise Diverged("loss is not finite")
        return look(self, run, call, branch, total, started)

    monkeypatch.setattr(trunk_module.Trunk, "_look", breaks)
    points, _ = run(LEVELS[:2], tmp_path)
    assert [points[place, 640].evaluation is None for place in (0, 1)] == [False, True]
    assert points[1, 640].reason == "loss is not finite"


def test_a_trunk_of_several_levels_is_planned_once_and_named_after_the_dense_one():
    trunks = (*LEVELS, replace(DENSE, seed=1), level(when="start", weight_bits=3))
    cells = trunk_cells(Experiment("x", "?", trunks, laws=()), "fit")
    groups = populations(cells, 1)
    assert sorted(len(group) for group in groups) == [1, 1, 5]
    shared = max(groups, key=len)
    dense = next(cell for cell in shared if cell.config == DENSE)
    assert group_id(shared) == dense.trunk_id and {cell.planned[640].trunk_id for cell in shared} == {dense.trunk_id}
    assert sum(cell.trained_tokens for cell in shared) == pytest.approx(320 + 3 * (160 + 320), abs=len(shared))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"when": "start", "sparsity": 0.5}, "which weights go is settled once"),
        (
            {"config": replace(DENSE, num_tokens=(320,), schedule=ScheduleConfig("cosine")), "weight_bits": 4},
            "has none",
        ),
    ],
)
def test_levels_that_set_in_when_they_cannot_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        level(**fields)


def study(worth):
    """A planted study: losses of the law 3 N^-0.1 of each seed, a level having that of worth(bits, d_model, seed) N."""
    runs = []
    for seed in (0, 1, 2):
        for width in (4, 8, 16, 32):
            for bits in (32, 4) if width > 4 else (32,):
                size = 12.0 * width**2
                share = 1.0 if bits == 32 else worth(width, seed)
                loss = (3 + 0.1 * seed) * (share * size) ** -0.1
                record = {"num_params_total": size}
                runs.append(StudyRun({"weight_bits": bits, "d_model": width}, seed, f"{width}-{seed}", loss, record))
    names = {"weight_bits": "model.compression.weight_bits", "d_model": "model.d_model"}
    factors = [Factor(n, path, tuple(run.levels[n] for run in runs)) for n, path in names.items()]
    return StudyRuns(tuple(factors), tuple(runs), "nats per token")


def test_a_planted_worth_comes_back_with_its_interval_and_is_found_constant():
    planted = study(lambda width, seed: 0.8 * (1 + 0.01 * (seed - 1)))
    for each in worths(planted, planted.factors[0]):
        assert [np.exp(each.by_seed[seed]) for seed in range(3)] == pytest.approx([0.792, 0.8, 0.808])
    ((line,), _) = worth_lines(planted, planted.factors[0])
    assert (
        "weight_bits 4 is worth 0.80 [0.78, 0.82] at d_model 8" in line
        and "; constant within 1 % from d_model 8 to 32." in line.replace("%", " %")
    )


def test_a_worth_that_falls_with_size_is_told():
    planted = study(lambda width, seed: 0.9 * (8 / width) ** 0.2 * (1 + 0.01 * (seed - 1)))
    ((line,), _) = worth_lines(planted, planted.factors[0])
    assert f"not constant: × {(8 / 32) ** 0.2:.2f}" in line
