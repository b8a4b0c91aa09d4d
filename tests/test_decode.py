"""Decoding with a memory: the logits of reading everything anew, whatever the model, the batch and the padding."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.adapter import AdapterConfig
from kleiber.model.config import CompressionConfig, ExpertsConfig, ModelConfig
from kleiber.model.decode.generate import answer, generate, generate_rows
from kleiber.model.decode.inference import inference_config
from kleiber.model.decode.sample import Sampling, draw
from kleiber.model.decode.slots import prefill, step, widen
from kleiber.model.functional import abstract_params, apply

MODEL = ModelConfig(
    d_model=16, num_layers=2, num_heads=4, vocab_size=32, seq_len=12, has_previous_token_mix=True, attention_blocks=1
)
KINDS = {
    "mix": MODEL,
    "grouped": replace(MODEL, num_kv_heads=2, is_gated=True, has_qk_norm=True, has_tied_head=False),
    "learned": replace(MODEL, positions="learned", has_previous_token_mix=False, norm="layernorm", has_norm_gain=True),
    "experts": replace(MODEL, experts=ExpertsConfig(4, 2, group_size=4)),
    "scanned experts": replace(MODEL, has_scanned_layers=True, num_kv_heads=1, experts=ExpertsConfig(4, num_shared=1)),
    "adapted": replace(MODEL, adapter=AdapterConfig("dora", rank=2)),
    "few bits": replace(MODEL, compression=CompressionConfig(weight_bits=4, rank_share=0.5)),
}


def drawn(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.normal(0, 0.3, p.shape).astype(p.dtype), abstract_params(model))


PARAMS, WHOLE = drawn(MODEL), jax.jit(apply, static_argnums=0)


@pytest.mark.parametrize("name", KINDS)
def test_logits_with_a_memory_are_those_of_the_whole_forward(name):
    model, rng = KINDS[name], np.random.default_rng(1)
    params, lengths = drawn(model), [3, 7, 1]
    tokens = [rng.integers(0, 32, length + 5) for length in lengths]
    config = replace(inference_config(model), compression=model.compression)
    expected = [WHOLE(config, params, np.pad(ids, (0, 12 - len(ids)))[None])[0] for ids in tokens]
    padded = np.full((3, 8), 31, np.int32)  # anything stands before a row
    for row, ids, length in zip(padded, tokens, lengths, strict=True):
        row[9 - length :] = ids[: length - 1]
    starts = 9 - np.array(lengths)
    memory = widen(jax.jit(prefill, static_argnums=0)(config, params, padded, starts), 12)
    read = jax.jit(step, static_argnums=0)
    for place, num_new in ((8, 1), (9, 1), (10, 2), (0, 1), (1, 1)):  # round the memory, where others' tokens lay
        at = (place - starts) % 12
        new = np.array([np.pad(ids, (1, 0))[now : now + 1 + num_new] for ids, now in zip(tokens, at, strict=True)])
        logits, memory = read(config, params, new.astype(np.int32), jnp.int32(place), at, memory)
        for row in range(3):
            wanted = expected[row][at[row] : at[row] + num_new]
            np.testing.assert_allclose(logits[row], wanted, atol=1e-5, rtol=1e-5)


def test_rows_of_a_batch_draw_what_they_draw_alone_and_greedy_is_the_growing_sequence():
    prompts = [[5, 9], [1, 2, 3, 4, 5], [7]]
    together = generate_rows(MODEL, PARAMS, prompts, 6, Sampling(0))
    for prompt, found in zip(prompts, together, strict=True):
        seen = list(prompt)
        for _ in range(6):
            logits = WHOLE(MODEL, PARAMS, np.pad(seen, (0, 12 - len(seen)))[None])
            seen.append(int(np.argmax(logits[0, len(seen) - 1])))
        assert found.tolist() == seen[len(prompt) :]
    first = generate_rows(MODEL, PARAMS, [prompts[1], prompts[0]], 6, Sampling(1.0), seed=3)[0]
    alone = generate_rows(MODEL, PARAMS, [prompts[1]], 6, Sampling(1.0), seed=3)[0]
    assert first.tolist() == alone.tolist()


def test_a_row_ends_at_a_stop_and_the_others_go_on():
    free = [row.tolist() for row in generate_rows(MODEL, PARAMS, [[5, 9], [7]], 8, Sampling(0))]
    stop = free[0][2]
    ended = [row.tolist() for row in generate_rows(MODEL, PARAMS, [[5, 9], [7]], 8, Sampling(0), stops=[stop])]
    assert ended[0] == free[0][: free[0].index(stop)]
    assert ended[1] == (free[1][: free[1].index(stop)] if stop in free[1] else free[1])


def test_one_seed_draws_one_text_however_it_is_cut():
    whole = list(generate(MODEL, PARAMS, [5], 20, seed=1))
    assert whole == list(generate(MODEL, PARAMS, [5], 20, seed=1)) != list(generate(MODEL, PARAMS, [5], 20, seed=2))
    begun = list(generate(MODEL, PARAMS, [5], 4, seed=1))
    (further,) = generate_rows(MODEL, PARAMS, [[5, *begun]], 3, Sampling(), seed=1, first=4)
    assert begun + further.tolist() == whole[:7]


def test_lengths_of_a_bucket_and_ways_of_drawing_share_a_program():
    model = replace(MODEL, seq_len=50, num_layers=1)
    params = drawn(model)
    generate_rows(model, params, [[1]], 2, Sampling(0.7, 5))
    before = answer._cache_size()
    for length, count, sampling in ((1, 16, Sampling(0)), (9, 8, Sampling(0.5, 7, 0.5)), (16, 1, Sampling())):
        generate_rows(model, params, [[1] * length], count, sampling)
    assert answer._cache_size() == before
    generate_rows(model, params, [[1] * 17], 1)  # a memory of 32 places
    generate_rows(model, params, [[1] * 5], 27)
    assert answer._cache_size() == before + 1
    generate_rows(model, params, [[1] * 40], 11)  # of all 50
    generate_rows(model, params, [[1] * 50], 1)
    assert answer._cache_size() == before + 2


def test_rows_with_seeds_of_their_own_draw_what_they_draw_alone():
    prompts, seeds = [[5, 9], [1, 2, 3], [7]], [4, 11, 4]
    together = generate_rows(MODEL, PARAMS, prompts, 6, seed=seeds)
    alone = [generate_rows(MODEL, PARAMS, [each], 6, seed=seed)[0] for each, seed in zip(prompts, seeds, strict=True)]
    assert [row.tolist() for row in together] == [row.tolist() for row in alone]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_p=0.65), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(top_p=0.75), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(top_k=3, top_p=0.4), [0, 1, 0, 0]),
        (Sampling(0), [0, 1, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_their_probability_says(sampling, expected):
    logits = jnp.tile(jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3])), (20_000, 1))
    ways = np.tile([sampling.numbers(4), Sampling(top_k=1).numbers(4)], (10_000, 1))  # every other row in another way
    found = draw(jnp.asarray(ways), logits, jax.random.split(jax.random.key(0), 20_000))
    assert set(np.unique(found[1::2])) == {1}
    found = found[::2]
    np.testing.assert_allclose(np.bincount(found, minlength=4) / 10_000, expected, atol=0.015)


@pytest.mark.parametrize(
    ("prompts", "count", "fields", "words"),
    [
        ([[1] * 10], 4, {}, "prompt of 10 tokens and 4 more, but the window holds 12"),
        ([[]], 4, {}, "behind a prompt of 0, expected 1 or more"),
        ([[1, 99]], 4, {}, "token 99 is outside the vocabulary of 32"),
        ([[1]], 4, {"temperature": -1}, "temperature is -1, expected at least 0"),
        ([[1]], 4, {"top_p": 0.0}, "top_p is 0.0, expected 0 < top_p <= 1"),
        ([[1]], 4, {"top_k": 0}, "top_k is 0, expected"),
    ],
)
def test_requests_that_cannot_be_are_refused(prompts, count, fields, words):
    with pytest.raises(ValueError, match=words):
        generate_rows(MODEL, PARAMS, prompts, count, Sampling(**fields))


def test_weights_of_low_rank_and_few_bits_are_read_as_they_are_trained():
    model = replace(MODEL, compression=CompressionConfig(weight_bits=4, rank_share=0.5, factored=("up", "down")))
    params, seen = drawn(model), [5, 9]
    for _ in range(3):
        logits = WHOLE(model, params, np.pad(seen, (0, 12 - len(seen)))[None])
        seen.append(int(np.argmax(logits[0, len(seen) - 1])))
    assert list(generate(model, params, [5, 9], 3, Sampling(0))) == seen[2:]
