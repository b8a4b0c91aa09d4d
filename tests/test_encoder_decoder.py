"""An encoder-decoder: what it sees of source and target, counts and costs, on one device and on several."""

from dataclasses import replace
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.experiments.compilation.hlo import parse
from kleiber.experiments.compilation.products import product_flops
from kleiber.model import counts
from kleiber.model.config import CompressionConfig, ExpertsConfig, ModelConfig
from kleiber.model.encoder import EncoderConfig
from kleiber.model.families.encoder_decoder import target_positions
from kleiber.model.functional import abstract_params, apply, init_params
from kleiber.model.parametrization import epsilon_multipliers, learning_rate_multipliers
from kleiber.parallel.config import MeshConfig
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, TeacherConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.gradients import gradients
from kleiber.train.placement import initial_state, place_batches
from kleiber.train.state import Hyperparameters
from kleiber.train.step import compile_steps
from kleiber.train.update.optimizer import make_optimizer

MODEL = ModelConfig(
    16, 1, 2, vocab_size=32, seq_len=6, family="encoder_decoder", encoder=EncoderConfig(1, 8), base_d_model=16,
    has_previous_token_mix=True,
)  # fmt: skip
DRAW = np.random.default_rng(0)
SOURCES, TARGETS = DRAW.integers(2, 32, (3, 8)), DRAW.integers(2, 32, (3, 6))
RUN = jax.jit(apply, static_argnums=0)


def filled(model, seed=0):
    """Returns weights of which none is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (x + 0.3 * rng.standard_normal(x.shape)).astype(x.dtype), init_params(model, seed))


PARAMS = filled(MODEL)


def row(pairs, num_source=8, num_target=6):
    """Returns (tokens, numbers of the pairs) of a row, int [S + T] each, with these (source, target) in it."""
    tokens, ids = np.zeros(num_source + num_target, int), np.zeros(num_source + num_target, int)
    for side, start in ((0, 0), (1, num_source)):
        for number, pair in enumerate(pairs, start=1):
            end = start + len(pair[side])
            tokens[start:end], ids[start:end] = pair[side], number
            start = end
    return tokens, ids


def logits(pairs, model=MODEL, params=PARAMS, **sizes):
    """Returns logits [T, V] of a row."""
    tokens, ids = row(pairs, **sizes)
    return np.asarray(RUN(model, params, tokens[None], ids[None])[0])


def test_a_target_sees_all_of_its_source_and_of_itself_what_stands_before():
    source, target = SOURCES[0], TARGETS[0]
    before = logits([(source, target)])
    for place in range(8):
        moved = np.abs(logits([(np.where(np.arange(8) == place, 1, source), target)]) - before).max(axis=1)
        assert (moved > 1e-4).all()  # of every target token, by every source token
    for place in range(6):
        moved = np.abs(logits([(source, np.where(np.arange(6) == place, 1, target))]) - before).max(axis=1)
        assert (moved[place:] > 1e-4).all() and (moved[:place] == 0).all()


def test_padding_of_either_side_and_other_pairs_in_the_row_change_nothing():
    one, other = (SOURCES[0, :3], TARGETS[0, :2]), (SOURCES[1, :4], TARGETS[1, :3])
    alone = logits([one])[:2]
    np.testing.assert_allclose(logits([one, other])[:2], alone, atol=1e-5)
    np.testing.assert_allclose(logits([other, one])[3:5], alone, atol=1e-5)
    longer = replace(MODEL, encoder=EncoderConfig(1, 13), seq_len=9)
    np.testing.assert_allclose(logits([one], longer, num_source=13, num_target=9)[:2], alone, atol=1e-5)
    tokens, ids = row([one])
    changed = np.where(ids == 0, 7, tokens)  # what lies where there is nothing
    np.testing.assert_allclose(RUN(MODEL, PARAMS, changed[None], ids[None])[0, :2], alone, atol=1e-5)
    assert np.abs(logits([(one[0], other[1][:2])])[:2] - alone).max() > 1e-2


def test_positions_of_a_target_go_on_where_its_source_ends():
    source_ids, target_ids = np.array([[1, 1, 1, 2, 2, 0]]), np.array([[1, 1, 2, 2, 2, 0]])
    assert target_positions(source_ids, target_ids)[0, :5].tolist() == [3, 4, 2, 3, 4]


def test_it_is_the_slow_version_of_it():
    source, target = SOURCES[0, :5], TARGETS[0, :4]

    def norm(x):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)

    def turned(x, positions):  # [T, N, H]
        angle = np.asarray(positions)[:, None] * 10_000.0 ** -(np.arange(4) / 4)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        return np.concatenate([x[..., :4] * cos - x[..., 4:] * sin, x[..., 4:] * cos + x[..., :4] * sin], axis=-1)

    def attend(w, x, at, y, at_y, is_causal=False):
        q, k, v = (a @ w[name] for a, name in ((x, "query"), (y, "key"), (y, "value")))
        q, k, v = (a.reshape(len(a), 2, 8) for a in (q, k, v))
        q, k = turned(q, at), turned(k, at_y)
        scores = np.einsum("tnh,snh->nts", q, k) / 8**0.5
        if is_causal:
            scores = np.where(np.tril(np.ones(scores.shape[1:])), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.einsum("nts,snh->tnh", weights, v).reshape(len(x), -1) @ w["output"]

    def feed(w, x):
        return np.maximum(norm(x) @ w["up"], 0) ** 2 @ w["down"]

    w = jax.tree.map(np.float64, PARAMS)

    def embedded(tokens):
        x = w["input"]["embedding"][tokens] * 4  # sqrt(d_model)
        return x + w["input"]["mix"] * np.concatenate([np.zeros((1, 16)), x[:-1]])

    branch = 0.5**-0.5  # one layer on each side, half of the base depth
    x, at = embedded(source), np.arange(5)
    block = w["source"]["blocks"]["00"]
    x = x + branch * attend(block["attention"], norm(x), at, norm(x), at)
    x = norm(x + branch * feed(block["feed_forward"], x))
    y, at_y = embedded(target), 5 + np.arange(4)
    for block in w["blocks"].values():
        y = y + branch * attend(block["attention"], norm(y), at_y, norm(y), at_y, is_causal=True)
        y = y + branch * attend(block["cross_attention"], norm(y), at_y, x, at)
        y = y + branch * feed(block["feed_forward"], y)
    np.testing.assert_allclose(logits([(source, target)])[:4], norm(y) @ w["input"]["embedding"].T, atol=1e-3)


SHAPES = [
    {},
    {"encoder": EncoderConfig(2, 12), "num_kv_heads": 1, "is_gated": True, "has_tied_head": False},
    {"num_layers": 2, "has_norm_gain": True, "norm": "layernorm", "has_qk_norm": True, "has_qk_norm_gain": True},
    {"num_layers": 3, "has_scanned_layers": True, "has_previous_token_mix": False},
]


@pytest.mark.parametrize("fields", SHAPES)
def test_the_parameters_counted_are_those_of_the_tree(fields):
    config = replace(MODEL, **fields)
    assert counts.num_params_total(config) == sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))


def compiled(config):
    """Returns the compiled gradient of the loss of one row."""
    places, targets = config.encoder.seq_len + config.seq_len, jnp.arange(config.seq_len)

    def loss(params, tokens):
        return -jnp.mean(jax.nn.log_softmax(apply(config, params, tokens))[0, targets, targets])

    tokens = jax.ShapeDtypeStruct((1, places), jnp.int32)
    lowered = jax.jit(jax.value_and_grad(loss)).lower(abstract_params(config), tokens)
    return lowered.compile({"xla_backend_optimization_level": "0"})


@pytest.mark.parametrize("fields", [SHAPES[1], {"has_remat": True, "attention_blocks": 1}], ids=["plain", "remat"])
def test_products_of_the_compiled_step_are_those_counted(fields):
    config = replace(MODEL, **fields)
    # On CPU a normaliser reaches the columns of its head by products with zeros and ones (tests/test_counts.py).
    queries = config.encoder.num_layers * config.encoder.seq_len + 2 * config.num_layers * config.seq_len
    sums = (4 + 2 * config.has_remat) * config.num_heads**2 * config.d_head * queries
    counted = counts.flops_per_token_computed(config) * config.seq_len + sums
    if config.has_remat and version("jax").startswith("0.10."):  # its compiler sees that the source's keys are there
        counted -= 2 * config.num_layers * config.encoder.seq_len * 2 * config.d_model**2
    assert product_flops(parse(compiled(config).as_text())) == pytest.approx(counted, rel=1e-4)


def test_at_width_64_all_that_the_compiler_counts_is_within_3_percent_of_the_flops_on_paper():
    config = ModelConfig(
        64, 2, 1, vocab_size=256, seq_len=32, family="encoder_decoder", encoder=EncoderConfig(2, 48), attention_blocks=1
    )

    counted = compiled(config).cost_analysis()["flops"] / 32
    assert counted == pytest.approx(counts.flops_per_token(config), rel=0.03)


def test_the_flops_of_a_row_are_those_worked_out_by_hand():
    config = ModelConfig(16, 3, 2, vocab_size=32, seq_len=6, family="encoder_decoder", encoder=EncoderConfig(2, 12))
    attention, feed_forward = 4 * 16 * 16, 2 * 16 * 64
    source = 12 * (2 * (attention + feed_forward) + 3 * 2 * 16 * 16)  # the decoder's keys and values of it, too
    target = 6 * (3 * (attention + 2 * 16 * 16 + feed_forward) + 32 * 16)
    squares = 12 * 16 * (2 * 12 * 12 + 3 * 6 * 6 + 3 * 12 * 6)
    assert counts.flops_per_token(config) * 6 == 6 * (source + target) + squares
    assert counts.flops_per_token_causal(config) * 6 == 6 * (source + target) + squares - 12 * 16 * 3 * 6 * 6 // 2
    assert counts.num_params_encoder(config) == 2 * (attention + feed_forward)
    assert counts.num_params_decoder(config) == 3 * (2 * attention + feed_forward)


def test_scanned_layers_and_recomputed_ones_start_and_compute_as_plain_ones():
    pairs = [(SOURCES[0, :5], TARGETS[0, :4])]
    plain = replace(MODEL, num_layers=2, encoder=EncoderConfig(2, 8))
    scanned = replace(plain, has_scanned_layers=True, has_remat=True)
    stacked, apart = init_params(scanned, 3), init_params(plain, 3)
    for blocks, each in (
        (stacked["blocks"], apart["blocks"]),
        (stacked["source"]["blocks"], apart["source"]["blocks"]),
    ):
        for n in range(2):
            jax.tree.map(lambda a, b, n=n: np.testing.assert_array_equal(a[n], b), blocks, each[f"0{n}"])
    apart = filled(plain)
    stacked = {**apart, "source": dict(apart["source"])}
    for tree, each in ((stacked, apart), (stacked["source"], apart["source"])):
        tree["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *each["blocks"].values())
    np.testing.assert_allclose(logits(pairs, scanned, stacked), logits(pairs, plain, apart), atol=1e-5)


def test_each_side_has_the_rules_of_its_own_depth():
    config = replace(MODEL, parametrization="completep", base_num_layers=1, num_layers=2)
    found = epsilon_multipliers(config, abstract_params(config))
    assert found["source"]["blocks"]["00"]["attention"]["key"] == 1.0
    assert found["blocks"]["00"]["cross_attention"]["key"] == 0.5
    assert learning_rate_multipliers(config, abstract_params(config))["input"]["embedding"] == 1.0


TRAIN = TrainConfig(
    MODEL, OptimizerConfig(0.01), (1000,), batch_size=8, objective="sequence_to_sequence", steps_per_call=3
)


TEACHER = TeacherConfig(train=TrainConfig(ModelConfig(8, 1, 2, vocab_size=32), OptimizerConfig(1.0), (9,)))


def batch_of(seed=0):
    """Returns eight rows of one to three pairs, of very unequal lengths."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(8):
        sizes = [(1, 1)] if n % 4 == 0 else [(3, 2), (4, 1)] if n % 4 == 1 else [(2, 2), (3, 3), (2, 1)]
        rows.append(row([(rng.integers(2, 32, s), rng.integers(2, 32, t)) for s, t in sizes]))
    tokens, ids = (np.stack(each).astype(np.int32) for each in zip(*rows, strict=True))
    targets = rng.integers(2, 32, (8, 6)).astype(np.int32)
    return Batch(tokens, targets, (ids[:, 8:] > 0).astype(np.float32), ids)


def test_micro_batches_of_unequal_weights_give_the_gradient_of_one():
    batch, params = batch_of(), jax.tree.map(jnp.asarray, PARAMS)

    def of(parts):
        return jax.jit(lambda p: gradients(replace(TRAIN, accumulation_steps=parts), p, batch, None))(params)

    logged, whole = of(1)
    weights = batch.weights
    losses = jax.nn.log_softmax(RUN(MODEL, params, batch.inputs, batch.segments))
    taken = -np.take_along_axis(np.asarray(losses, np.float64), batch.targets[..., None], axis=-1)[..., 0]
    assert logged["loss"] == pytest.approx((taken * weights).sum() / weights.sum(), rel=1e-5)
    for parts in (2, 4):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5), of(parts)[1], whole)


def losses_of(config):
    """Returns the losses of three steps on the mesh of a config."""
    optimizer = make_optimizer(config.optimizer, config.model, abstract_params(config.model))
    mesh, batch = make_mesh(config.mesh), batch_of()
    hyper = Hyperparameters(jnp.float32(0.01), jnp.float32(0.1))
    with use_mesh(mesh):
        state = initial_state([config], optimizer, mesh)
        read = lambda i: jax.tree.map(lambda leaf: leaf[i], batch)  # noqa: E731
        batches = place_batches(mesh, read, np.tile(np.arange(8), (3, 1)), 3, False)
        _, log = compile_steps(config, optimizer)(
            state, hyper, batches, np.ones(3, np.float32), np.uint32(0), np.int32(3)
        )
        return np.asarray(log.losses)


def test_meshes_train_to_the_losses_of_one_device():
    alone = losses_of(TRAIN)
    assert alone[0] - alone[2] > 0.05
    shared = losses_of(replace(TRAIN, mesh=MeshConfig(data=2), accumulation_steps=2))
    np.testing.assert_allclose(shared, alone, atol=1e-5)
    np.testing.assert_allclose(losses_of(replace(TRAIN, mesh=MeshConfig(data=2, fsdp=2, tensor=2))), alone, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": None}, "set encoder=EncoderConfig"),
        ({"family": "decoder"}, "leave encoder out"),
        ({"positions": "learned"}, "goes on counting where its source ends; use positions='rotary'"),
        ({"has_next_token_mix": True}, "has_next_token_mix is True"),
        ({"experts": ExpertsConfig(4)}, "experts is ExpertsConfig"),
        ({"compression": CompressionConfig(8)}, "compression is CompressionConfig"),
        ({"has_remat": True, "remat_keeps": "products"}, "keeps nothing"),
    ],
)  # fmt: skip
def test_a_shape_that_makes_no_sense_is_refused_and_the_field_named(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(MODEL, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "next_token"}, "set objective='sequence_to_sequence'"),
        ({"model": ModelConfig(8, 1, 2)}, "set model.family='encoder_decoder'"),
        ({"data": DataConfig(document_attention=True)}, "data.document_attention is True"),
        ({"evaluation": EvalConfig(num_bytes=5)}, "evaluation.num_bytes is 5"),
        ({"mesh": MeshConfig(context=2)}, "mesh.context is 2"),
        ({"trainable": "head"}, "trainable is 'head'"),
        ({"teacher": TEACHER}, "teacher is 'a teacher'"),
    ],
)  # fmt: skip
def test_what_a_run_on_pairs_has_not_is_refused_and_the_field_named(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(TRAIN, **fields)
