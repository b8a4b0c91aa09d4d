"""Speculative decoding: the tokens of plain decoding, whatever drafts them."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import chisquare

from kleiber.model.config import ModelConfig
from kleiber.model.decode import speculative
from kleiber.model.decode.generate import generate, generate_rows
from kleiber.model.decode.inference import Request, Row, row_of
from kleiber.model.decode.sample import Sampling
from kleiber.model.decode.speculative import NUM_DRAFTED, Draft, generate_drafted
from kleiber.model.functional import abstract_params, apply

LARGE = ModelConfig(d_model=16, num_layers=1, num_heads=2, vocab_size=4, seq_len=40, has_previous_token_mix=True)
SMALL = ModelConfig(d_model=8, num_layers=1, num_heads=1, vocab_size=4, seq_len=40)


def drawn(model, seed=0, scale=0.25):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.normal(0, scale, p.shape).astype(p.dtype), abstract_params(model))


PARAMS, OTHERS, WHOLE = drawn(LARGE), drawn(SMALL), jax.jit(apply, static_argnums=0)


@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(), Sampling(0.8, 3, 0.9)])
def test_a_seed_writes_what_it_writes_without_a_draft(sampling):
    for prompt, count, stops in (([3], 40, ()), ([1, 2, 3], 38, ()), ([1, 2, 3], 38, (0,))):
        draft = Draft(SMALL, OTHERS)
        (plain,) = generate_rows(LARGE, PARAMS, [prompt], count, sampling, 3, stops)
        found = generate_drafted(LARGE, PARAMS, draft, Request(tuple(prompt), count, sampling, 3, stops))
        assert found.tolist() == plain.tolist()
        assert draft.num_passes + draft.num_kept >= len(found)  # each pass adds one token to those it keeps


def test_a_text_longer_than_the_window_is_the_same_and_a_draft_that_is_the_model_itself_is_kept_to_the_last_token():
    draft = Draft(LARGE, PARAMS)
    found = list(generate(LARGE, PARAMS, [3], 43, seed=1, draft=draft))
    assert found == list(generate(LARGE, PARAMS, [3], 43, seed=1)) and len(found) == 43
    assert (draft.num_passes, draft.num_kept) == (8, 8 * NUM_DRAFTED)  # of the 40 tokens of the first window


def answered(large, params, small, others, count, num_rows):
    """Returns (tokens, passes, drafted tokens kept) of many seeds, side by side."""
    row = replace(row_of(large, Request((1, 2), count), 16), seed=np.arange(num_rows))
    over_seeds = Row(**{name: None for name in vars(row)} | {"seed": 0})
    many = jax.vmap(lambda each: speculative._answer(large, small, 16, params, others, each), in_axes=(over_seeds,))
    found, _, passes, kept = map(np.asarray, many(row))
    return found[:, :count], int(passes.sum()), int(kept.sum())


def test_tokens_come_as_often_as_the_model_says():
    found, *_ = answered(LARGE, PARAMS, SMALL, OTHERS, 3, 8000)
    texts = np.array(np.meshgrid(*[range(4)] * 3, indexing="ij")).reshape(3, -1).T
    whole = np.concatenate([np.tile([1, 2], (64, 1)), texts], axis=1)
    logs = log_softmax(np.float64(WHOLE(LARGE, PARAMS, whole)), axis=2)
    chances = np.exp(np.take_along_axis(logs[:, 1:4], texts[..., None], axis=2)[..., 0].sum(axis=1))
    seen = np.bincount(found @ [16, 4, 1], minlength=64)
    assert 8000 * chances.min() > 2 and chisquare(seen, 8000 * chances / chances.sum()).pvalue > 0.01


def test_tokens_a_pass_are_those_of_drafts_that_agree_by_chance():
    large, small = (replace(each, has_tied_head=False, has_previous_token_mix=False) for each in (LARGE, SMALL))
    params, others = drawn(large, scale=0.12), drawn(small, 1, 0.12)
    for tree in (params, others):  # every token looks the same, so that each is drawn anew from one distribution
        tree["input"]["embedding"][:] = tree["input"]["embedding"][0]
    each = ((large, params), (small, others))
    p, q = (softmax(np.asarray(WHOLE(*model, np.zeros((1, 2), int)))[0, 0]) for model in each)
    agree = sum(1 / np.maximum(p / p[each], q / q[each]).sum() for each in range(4))  # both draw it by one noise
    _, passes, kept = answered(large, params, small, others, 16, 1000)
    expected = (1 - agree ** (NUM_DRAFTED + 1)) / (1 - agree)
    assert 0.3 < agree < 0.9 and abs((1 + kept / passes) / expected - 1) < 0.03
