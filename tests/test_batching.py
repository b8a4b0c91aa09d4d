"""Continuous batching: whoever comes and goes, a request gets what it would get alone, by the same programs."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from kleiber.model.config import ModelConfig
from kleiber.model.decode import batching
from kleiber.model.decode.batching import Engine, answer_all
from kleiber.model.decode.generate import generate_rows
from kleiber.model.decode.inference import Request
from kleiber.model.decode.sample import Sampling
from kleiber.model.functional import abstract_params

MODEL = ModelConfig(
    d_model=16, num_layers=1, num_heads=4, num_kv_heads=2, vocab_size=32, seq_len=20, has_previous_token_mix=True
)
WAYS = (Sampling(0), Sampling(), Sampling(0.7, top_k=5), Sampling(top_p=0.8))


def drawn(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: rng.normal(0, 0.3, p.shape).astype(p.dtype), abstract_params(model))


def requests(count):
    rng = np.random.default_rng(1)
    for number in range(count):
        length = int(rng.integers(1, 19))
        most, stops = int(rng.integers(1, 22 - length)), (3,) if number % 3 == 0 else ()
        yield Request(tuple(rng.integers(0, 32, length).tolist()), most, WAYS[number % 4], number, stops)


def test_requests_get_what_they_get_alone_and_whatever_comes_compiles_nothing():
    params = drawn(MODEL)
    engine = Engine(MODEL, params, 3)
    engine.compile()
    programs = batching._admit._cache_size(), batching._advance._cache_size()
    found = dict(answer_all(engine, requests(24)))
    assert (batching._admit._cache_size(), batching._advance._cache_size()) == programs
    assert engine.num_free == 3 and sorted(found) == list(range(24))
    for number, asked in enumerate(requests(24)):
        drawn_how = asked.num_tokens, asked.sampling, asked.seed, asked.stops
        (alone,) = generate_rows(MODEL, params, [asked.prompt], *drawn_how)
        assert found[number] == alone.tolist()


def test_a_slot_that_is_dropped_is_another_requests_and_whoever_waits_gets_that_of_the_first_to_end():
    model = replace(MODEL, seq_len=16, has_scanned_layers=True)
    params = drawn(model)
    engine = Engine(model, params, 2)
    kept, gone, late = (Request(tuple(range(length)), 6, seed=length) for length in (9, 1, 4))
    first, second = engine.admit(kept), engine.admit(gone)
    with pytest.raises(ValueError, match="all 2 slots are taken"):
        engine.admit(late)
    got = {each.slot: each.tokens for each in engine.advance(2)}
    engine.drop(second)
    assert engine.admit(late) == second
    got[second] = []
    for ended in ([True, False], [True]):  # after 4 tokens more, and after the other's last two
        told = engine.advance(ends_early=True)
        assert [each.has_ended for each in told] == ended
        for each in told:
            got[each.slot] += each.tokens
    assert engine.advance() == []
    for slot, asked in ((first, kept), (second, late)):
        (alone,) = generate_rows(model, params, [asked.prompt], 6, seed=asked.seed)
        assert got[slot] == alone.tolist() and len(alone) == 6
