"""Matrices of low rank: nearest factors, counts of smaller arrays, levels that set in at the cooldown."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_flops import compiled_flops
from test_compress import DENSE as LONGER
from test_compress import MODEL, level, run, tokens_of_no_corpus  # noqa: F401

from kleiber.experiments.directory.record import planned_records
from kleiber.model.adapter import AdapterConfig
from kleiber.model.calibration import second_moments
from kleiber.model.compress.low_rank import factors
from kleiber.model.compress.tree import begin
from kleiber.model.config import CompressionConfig, ExpertsConfig, ModelConfig
from kleiber.model.counts import count, num_params_total
from kleiber.model.functional import abstract_params, apply, init_params
from kleiber.parallel.config import MeshConfig
from kleiber.train.calibration import calibration_steps
from kleiber.train.levels import trained_flops
from kleiber.train.trunk import Stopped

RNG = np.random.default_rng(0)


def low(model, share=0.5, **fields):
    return replace(model, compression=CompressionConfig(rank_share=share, **fields))


def moved(model):
    """Returns weights none of which is at its start."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(p.dtype) / 2, abstract_params(model))


def test_whitened_factors_come_nearest_to_what_a_matrix_gives_and_plain_ones_to_its_entries():
    weight = RNG.standard_normal((6, 4)).astype(np.float32)
    inputs = (RNG.standard_normal((50, 6)) @ RNG.standard_normal((6, 6)) * [3, 1, 1, 0.3, 0.1, 2]).astype(np.float32)
    moment = jnp.asarray(inputs.T @ inputs / 50)
    sizes = np.linalg.svd(weight, compute_uv=False)
    whitened_sizes = np.linalg.svd(inputs @ weight, compute_uv=False)
    for rank in (1, 2, 3):
        plain = factors(jnp.asarray(weight), rank)
        kept = factors(jnp.asarray(weight), rank, moment)
        assert plain["left"].shape == kept["left"].shape == (6, rank) and kept["right"].shape == (rank, 4)
        # Eckart and Young: the least squared error of any matrix of this rank is the sum of the squares left out.
        lost = np.square(plain["left"] @ plain["right"] - weight).sum()
        assert lost == pytest.approx(np.square(sizes[rank:]).sum(), rel=1e-4)
        lost = np.square(inputs @ (kept["left"] @ kept["right"] - weight)).sum()
        assert lost == pytest.approx(np.square(whitened_sizes[rank:]).sum(), rel=1e-3)
        np.testing.assert_allclose(np.linalg.norm(kept["left"]), np.linalg.norm(kept["right"]), rtol=1e-4)


def test_inputs_that_are_never_there_leave_finite_factors():
    weight = jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32)
    for moment in (jnp.zeros((4, 4)), jnp.diag(jnp.array([1.0, 0, 0, 0]))):
        assert all(np.isfinite(each).all() for each in factors(weight, 2, moment).values())


@pytest.mark.parametrize("is_scanned", [False, True])
def test_moments_are_those_of_what_each_matrix_reads(is_scanned):
    """A model whose second layer adds nothing: what its first matrices read is the normalised residual stream."""
    model = replace(MODEL, num_layers=2, has_scanned_layers=is_scanned, has_remat=is_scanned)
    params, tokens = moved(model), RNG.integers(0, 32, (3, 8)).astype(np.int32)
    found = second_moments(model, params, tokens)
    embedded = params["input"]["embedding"][tokens].reshape(-1, 8) * 8**0.5
    read = embedded / np.sqrt(np.square(embedded).mean(axis=1, keepdims=True))
    query = found["blocks/attention/query"][0] if is_scanned else found["blocks/00/attention/query"]
    np.testing.assert_allclose(query, read.T @ read / len(read), rtol=1e-4, atol=1e-5)
    assert len(found) == (6 if is_scanned else 12)
    path = "blocks/{}feed_forward/down"
    down = found[path.format("")] if is_scanned else [found[path.format(f"0{n}/")] for n in (0, 1)]
    plain = replace(model, has_scanned_layers=False)
    other = params if not is_scanned else {
        **params, "blocks": {f"0{n}": jax.tree.map(lambda a, n=n: a[n], params["blocks"]) for n in (0, 1)},
    }  # fmt: skip
    np.testing.assert_allclose(down[1], second_moments(plain, other, tokens)["blocks/01/feed_forward/down"], rtol=1e-5)


def test_a_model_of_low_rank_holds_narrow_factors_and_no_more_numbers_than_counted():
    for model in (MODEL, replace(MODEL, is_gated=True, num_kv_heads=1, has_scanned_layers=True)):
        some = low(model, 0.5, factored=("up", "down", "query"))
        params = init_params(some, 0)
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_params_total(some) < num_params_total(model)
    up = init_params(low(MODEL, 0.5, factored=("up",)), 0)["blocks"]["00"]["feed_forward"]
    assert up["up"]["left"].shape == (8, 4) and up["up"]["right"].shape == (4, 32) and up["down"].shape == (32, 8)
    # 4 x 8 x 8 of attention and 2 x 8 x 32 become 4 x 4 x 16 and 2 x 4 x 40 at rank 4.
    assert num_params_total(MODEL) - num_params_total(low(MODEL)) == (256 + 512) - (256 + 320)
    assert count(MODEL).flops_per_token - count(low(MODEL)).flops_per_token == 6 * 192
    half = low(replace(MODEL, d_model=32, vocab_size=64))
    dense, narrow = (compiled_flops(each).products for each in (replace(half, compression=CompressionConfig()), half))
    expected = 6 * 4 * (32 * 32 - 16 * 32 * 2) + 6 * 2 * (32 * 128 - 16 * 160)
    assert dense - narrow == pytest.approx(expected, rel=0.1)


def test_the_logits_are_those_of_the_products_of_the_factors():
    model, tokens = low(replace(MODEL, num_layers=2)), RNG.integers(0, 32, (2, 8)).astype(np.int32)
    params = moved(model)

    def walk(tree):
        if not isinstance(tree, dict):
            return tree
        return tree["left"] @ tree["right"] if "left" in tree else {name: walk(each) for name, each in tree.items()}

    whole = replace(model, compression=CompressionConfig())
    np.testing.assert_allclose(apply(model, params, tokens), apply(whole, walk(params), tokens), rtol=1e-4, atol=1e-4)


def test_a_level_of_full_information_gives_the_logits_of_the_trained_model():
    """Of a matrix that has this rank nothing is lost."""
    model, tokens = low(MODEL, 0.5, approximation="plain"), RNG.integers(0, 32, (2, 8)).astype(np.int32)
    params = moved(MODEL)
    for part in ("attention", "feed_forward"):
        for name, matrix in params["blocks"]["00"][part].items():
            params["blocks"]["00"][part][name] = np.asarray((lambda f: f["left"] @ f["right"])(factors(matrix, 4)))
    begun = begin(MODEL, model, params)
    np.testing.assert_allclose(apply(model, begun, tokens), apply(MODEL, params, tokens), rtol=1e-3, atol=1e-4)


DENSE = replace(LONGER, num_tokens=(320,))
LEVELS = (
    DENSE, level(DENSE, rank_share=0.5), level(DENSE, rank_share=0.25, approximation="plain"),
    level(DENSE, when="end", rank_share=0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("levels")


def test_levels_of_low_rank_share_a_trunk_and_are_what_they_are_alone(folder, tmp_path):
    together, trunk = run(LEVELS, folder)
    assert trunk.totals.trained_tokens == 160 + 3 * 160
    losses = [together[place, 320].evaluation.loss for place in range(4)]
    assert len(set(losses)) == 4 and min(losses) == losses[0]
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 3  # in the cooldown, whose state is another than the plateau's

    with pytest.raises(Stopped, match="branch_320_"):
        run([LEVELS[1]], tmp_path, should_stop=stop)
    again, _ = run([LEVELS[1]], tmp_path)
    assert again[0, 320].evaluation == together[1, 320].evaluation


def test_a_population_and_a_mesh_have_the_losses_of_one_member_on_one_device(tmp_path):
    config = replace(LEVELS[1], accumulation_steps=1)
    alone, _ = run([config], tmp_path / "alone")
    both, _ = run([replace(config, seed=seed) for seed in (1, 0)], tmp_path / "both", num_logs=2)
    split, _ = run([replace(config, mesh=MeshConfig(fsdp=2, tensor=2))], tmp_path / "mesh")
    for found in (both[1, 320], split[0, 320]):
        assert found.evaluation.loss == pytest.approx(alone[0, 320].evaluation.loss, rel=1e-4)


def test_flops_of_a_level_are_those_of_each_part_of_its_run():
    dense, narrow = (count(each).flops_per_token for each in (MODEL, LEVELS[1].model))
    flops = {place: planned_records("x", "fit", LEVELS[place])[320].flops for place in (0, 1, 3)}
    assert flops == {0: 320 * dense, 1: 160 * (dense + narrow), 3: 320 * dense}
    assert planned_records("x", "fit", level(DENSE, when="start", rank_share=0.5))[320].flops == 320 * narrow
    assert trained_flops(LEVELS[:2]) == 160 * dense + 160 * (dense + narrow)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank_share": 0.05}, r"rank_share 0.05 of the matrix query 8 x 8 is a rank of 0, which is none"),
        ({"rank_share": 0.99}, r"is a rank of 8, which changes nothing"),
        ({"rank_share": 0.7}, r"is a rank of 6, which makes it larger; expected ranks of 1 to 4, shares of at"),
        ({"rank_share": 0.5, "factored": ("gate",)}, "names no matrix of this shape"),
        ({"rank_share": 0.5, "factored": ()}, "factored is empty"),
        ({"rank_share": 1.5}, "rank_share is 1.5, expected 0 < rank_share <= 1"),
        ({"rank_share": 0.25, "sparsity": 0.5, "pattern": "4:8"}, "does not divide the rank of query 2"),
    ],
)
def test_ranks_that_do_not_exist_or_change_nothing_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        replace(MODEL, compression=CompressionConfig(**fields))


def test_what_low_rank_does_not_go_with_is_refused():
    with pytest.raises(ValueError, match="rank_share with model.experts"):
        replace(low(MODEL), experts=ExpertsConfig(2))
    with pytest.raises(ValueError, match="rank_share with model.adapter"):
        replace(low(MODEL), adapter=AdapterConfig(rank=2))
    short = replace(level(rank_share=0.5), num_tokens=(32,), model=low(ModelConfig(8, 1, 2, vocab_size=32, seq_len=8)))
    with pytest.raises(ValueError, match="32 training tokens for inputs of 32, expected at least 128"):
        calibration_steps(short)
