"""Decoding with a memory: the logits of reading everything anew, whatever the model, the batch and the padding."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.model.config import CompressionConfig, ExpertsConfig, ModelConfig
from kleiber.model.decode.generate import Rows, answer, generate, generate_rows, inference_config, prefill, step
from kleiber.model.decode.sample import Sampling, draw
from kleiber.model.functional import abstract_params, apply

MODEL = ModelConfig(
    d_model=16, num_layers=2, num_heads=4, vocab_size=32, seq_len=12, has_previous_token_mix=True, attention_blocks=1
)
KINDS = {
    "mix": MODEL,
    "grouped": replace(MODEL, num_kv_heads=2, is_gated=True, has_qk_norm=True, has_tied_head=False),
    "scanned": replace(MODEL, has_scanned_layers=True),
    "learned": replace(MODEL, positions="learned", has_previous_token_mix=False, norm="layernorm", has_norm_gain=True),
    "experts": replace(MODEL, experts=ExpertsConfig(4, 2)),
    "few bits": replace(MODEL, compression=CompressionConfig(weight_bits=4)),
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
    padded = np.full((3, 12), 31, np.int32)  # anything stands before and behind a row
    for row, ids, length in zip(padded, tokens, lengths, strict=True):
        row[7 - length : 7] = ids[:length]
    config = inference_config(model)
    config = replace(config, compression=model.compression)
    logits, memory = jax.jit(prefill, static_argnums=0)(config, params, Rows(padded, np.array(lengths)))
    starts = 7 - np.array(lengths)
    read = jax.jit(step, static_argnums=0)
    expected = [WHOLE(config, params, np.pad(ids, (0, 12 - len(ids)))[None])[0] for ids in tokens]
    for place in range(7, 13):
        for row in range(3):
            np.testing.assert_allclose(logits[row], expected[row][place - starts[row] - 1], atol=1e-5, rtol=1e-5)
        if place < 12:
            two = np.array([ids[[place - s - 1, place - s]] for ids, s in zip(tokens, starts, strict=True)], np.int32)
            logits, memory = read(config, params, two, jnp.int32(place), starts, memory)


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


def test_no_prompt_and_no_answer_of_any_length_compiles_anything_more():
    generate_rows(MODEL, PARAMS, [[1]], 2, Sampling(0.7, 5))
    before = answer._cache_size()
    for length, count, top_p in ((1, 12, 0.9), (4, 3, 0.5), (12, 1, 1.0)):
        generate_rows(MODEL, PARAMS, [[1] * length], count, Sampling(0.5, 7, top_p))
    assert answer._cache_size() == before


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
    found = draw(sampling.kind, sampling.numbers(4), logits, jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(np.bincount(found, minlength=4) / 20_000, expected, atol=0.015)


@pytest.mark.parametrize(
    ("prompts", "count", "fields", "words"),
    [
        ([[1] * 10], 4, {}, "prompt of 10 tokens and 4 more, but the window holds 12"),
        ([[]], 4, {}, r"behind prompts of \[0\], expected 1 or more"),
        ([[1, 99]], 4, {}, "token 99 is outside the vocabulary of 32"),
        ([[1]], 4, {"temperature": -1}, "temperature is -1, expected at least 0"),
        ([[1]], 4, {"top_p": 0.0}, "top_p is 0.0, expected 0 < top_p <= 1"),
        ([[1]], 4, {"top_k": 0}, "top_k is 0, expected"),
    ],
)
def test_requests_that_cannot_be_are_refused(prompts, count, fields, words):
    with pytest.raises(ValueError, match=words):
        generate_rows(MODEL, PARAMS, prompts, count, Sampling(**fields))
