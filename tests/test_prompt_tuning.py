"""Virtual tokens in front of every row: what they change, who sees them, and text that is written behind them."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from test_fine_tuning import no_corpus, run, start, tuned  # noqa: F401  fixtures

from kleiber.model.adapter import AdapterConfig
from kleiber.model.adapters.tree import merge, put_on
from kleiber.model.config import ModelConfig
from kleiber.model.counts import flops_per_token, num_params_total
from kleiber.model.decode.batching import Engine, answer_all
from kleiber.model.decode.generate import generate, generate_rows
from kleiber.model.decode.inference import Request
from kleiber.model.decode.sample import Sampling
from kleiber.model.decode.speculative import Draft
from kleiber.model.functional import apply, init_params
from kleiber.model.selection import select, weight_sizes
from kleiber.parallel.config import MeshConfig
from kleiber.train.config import OptimizerConfig, TrainConfig

PLAIN = ModelConfig(d_model=16, num_layers=2, num_heads=2, vocab_size=12, seq_len=16, base_d_model=8)
TUNED = replace(PLAIN, adapter=AdapterConfig("prompt", num_virtual_tokens=3))
MIXED = replace(TUNED, has_previous_token_mix=True)
TOKENS = np.random.default_rng(0).integers(0, 12, (2, 8))
GREEDY = Sampling(temperature=0.0)


def moved(config):
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda p: np.float32(p + 0.3 * draw.standard_normal(p.shape)), init_params(config, 0))


@pytest.mark.parametrize("is_scanned", [False, True])
def test_logits_are_those_behind_tokens_of_a_longer_table(is_scanned):
    config = replace(TUNED, has_scanned_layers=is_scanned, has_tied_head=False)
    params = moved(config)
    longer = replace(config, adapter=None, vocab_size=15)
    table = dict(params["input"])
    table = {"embedding": np.concatenate([table["embedding"], table["prompt"]])}
    head = np.concatenate([params["head"], np.zeros((16, 3), np.float32)], axis=1)
    rows = np.concatenate([np.tile([12, 13, 14], (2, 1)), TOKENS], axis=1)
    expected = apply(longer, {**params, "input": table, "head": head}, rows)[:, 3:, :12]
    np.testing.assert_allclose(apply(config, params, TOKENS), expected, rtol=1e-5, atol=1e-5)
    plain = {**params, "input": {"embedding": params["input"]["embedding"]}}
    assert np.abs(expected - apply(replace(config, adapter=None), plain, TOKENS)).max() > 0.1
    begun = put_on(init_params(config, 5), plain)
    np.testing.assert_array_equal(begun["input"]["prompt"], init_params(config, 5)["input"]["prompt"])
    np.testing.assert_array_equal(begun["input"]["embedding"], plain["input"]["embedding"])


@pytest.mark.parametrize("model", [TUNED, MIXED])
def test_each_document_of_a_row_sees_the_prompt_as_if_it_stood_alone(model):
    params = moved(model)
    segments = np.array([[0, 0, 0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1]])
    together = np.asarray(apply(model, params, TOKENS, segments))
    for row, first in ((0, 5), (1, 1)):
        for begun, end in ((0, first), (first, 8)):
            alone = apply(model, params, TOKENS[row : row + 1, begun:end])
            np.testing.assert_allclose(together[row, begun:end], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [TUNED, MIXED, replace(MIXED, has_scanned_layers=True)])
def test_tokens_written_are_the_likeliest_of_the_whole_row_behind_the_prompt(model):
    params, tokens = moved(model), [3, 1, 4]
    run = jax.jit(lambda p, row: apply(model, p, row))
    expected = list(tokens)
    for _ in range(15):  # beyond the 13 places that the prompt leaves of the window
        row = np.array([expected[-13:]])
        expected.append(int(np.argmax(run(params, row)[0, -1])))
    assert list(generate(model, params, tokens, 15, GREEDY)) == expected[3:]
    rows = generate_rows(model, params, [tokens, [5]], 8, GREEDY)
    assert rows[0].tolist() == expected[3:11]
    requests = [Request(tuple(tokens), 8, GREEDY), Request((5,), 8, GREEDY), Request((2, 2), 3, GREEDY)]
    answers = dict(answer_all(Engine(model, params, 2), requests))
    assert answers[0] == rows[0].tolist() and answers[1] == rows[1].tolist() and len(answers[2]) == 3


def test_a_prompt_takes_up_places_of_the_window_and_a_draft_reads_the_same_one():
    params = moved(TUNED)
    with pytest.raises(ValueError, match="but the window holds 13"):
        generate_rows(TUNED, params, [[1] * 8], 7)
    assert len(generate_rows(TUNED, params, [[1] * 8], 6)[0]) == 6
    Engine(TUNED, params, 1).compile()
    own = list(generate(TUNED, params, [1, 2], 6, GREEDY, draft=Draft(TUNED, params)))
    assert own == list(generate(TUNED, params, [1, 2], 6, GREEDY))
    with pytest.raises(ValueError, match="the draft has a tuned prompt of 0 tokens, the model one of 3"):
        list(generate(TUNED, params, [1, 2], 6, draft=Draft(PLAIN, moved(PLAIN))))


def test_it_counts_as_vectors_that_move_and_as_places_that_every_row_has_more():
    assert select(TUNED, "adapter") == {"input/prompt"}
    assert num_params_total(TUNED) == sum(weight_sizes(TUNED).values()) == num_params_total(PLAIN) + 3 * 16
    # By hand: 19 places for 16 targets pass the layers, and attention is over 19 x 19; the head has 16.
    layers, squares = 2 * (4 * 256 + 2 * 1024), 12 * 2 * 16 * 19 * 19 / 16
    assert flops_per_token(TUNED) == 6 * (layers * 19 / 16 + 12 * 16) + squares


def test_what_a_prompt_cannot_have_is_refused():
    with pytest.raises(ValueError, match="'prompt' to merge, expected lora, dora, adalora"):
        merge(TUNED, moved(TUNED))
    with pytest.raises(ValueError, match="3 virtual tokens in front are not split over `context`"):
        TrainConfig(TUNED, OptimizerConfig(0.1), (100,), mesh=MeshConfig(context=2))


@pytest.mark.parametrize("mesh", [{"data": 2}, {"fsdp": 2}, {"tensor": 2}], ids=str)
def test_a_mesh_tunes_a_prompt_to_the_loss_of_one_device(mesh, start, tmp_path):  # noqa: F811
    config = replace(tuned(adapter=AdapterConfig("prompt", num_virtual_tokens=3)), accumulation_steps=2)
    alone, weights, _ = run(config, tmp_path / "one", start[1])
    loss, found, _ = run(replace(config, mesh=MeshConfig(**mesh)), tmp_path / "mesh", start[1])
    assert loss == pytest.approx(alone, abs=1e-5)
    np.testing.assert_allclose(found["params/input/prompt"], weights["params/input/prompt"], atol=1e-4)
