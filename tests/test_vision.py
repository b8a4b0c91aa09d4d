"""Models of images: what they compute, count and cost, on one device and on several, and how they are trained."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kleiber.experiments.compilation.hlo import parse
from kleiber.experiments.compilation.products import product_flops
from kleiber.model import counts
from kleiber.model.config import ModelConfig
from kleiber.model.functional import abstract_params, apply, init_params
from kleiber.model.image import ImageConfig
from kleiber.model.layers.attention import rotate
from kleiber.model.layers.convolution import neighbourhoods
from kleiber.model.layers.patches import cut, places
from kleiber.parallel.config import MeshConfig
from kleiber.train.checkpoints.checkpoint import load_arrays
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.run_data import open_run_data
from kleiber.train.objective.augment import augment
from kleiber.train.trunk import Stopped, Trunk, TrunkIO

VIT = ModelConfig(8, 2, 2, vocab_size=4, family="vision_transformer", image=ImageConfig(4), base_d_model=8)
RESIDUAL = ModelConfig(
    4, 2, 2, vocab_size=4, family="residual_network", image=ImageConfig(4, num_stages=2), norm="layernorm",
    has_norm_gain=True, activation="silu", base_d_model=4,
)  # fmt: skip
MODELS = {"vit": VIT, "residual": RESIDUAL}
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype(np.int32)


def filled(model, seed=0):
    """Returns weights of which none is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (x + 0.3 * rng.standard_normal(x.shape)).astype(x.dtype), init_params(model, seed))


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (VIT, {}),
        (VIT, {"positions": "learned", "has_norm_gain": True, "num_kv_heads": 1, "is_gated": True}),
        (VIT, {"d_model": 16, "num_heads": 4, "image": ImageConfig(12, 3, 3)}),
        (RESIDUAL, {}),
        (RESIDUAL, {"num_layers": 6, "norm": "rmsnorm", "image": ImageConfig(8, 3, num_stages=3)}),
        (RESIDUAL, {"has_norm_gain": False, "image": ImageConfig(6, 2, num_stages=1)}),
    ],
)
def test_parameters_are_those_of_the_tree_and_flops_those_of_the_compiler(model, fields):
    config, (image, count) = replace(model, **fields), (replace(model, **fields).image, 2)
    assert counts.num_params_total(config) == sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))

    def loss(params, images, labels):
        return jnp.mean(jax.nn.log_softmax(apply(config, params, images))[jnp.arange(count), 0, labels])

    images = jax.ShapeDtypeStruct((count, image.side, image.side, image.channels), jnp.int32)
    lowered = jax.jit(jax.grad(loss)).lower(abstract_params(config), images, jax.ShapeDtypeStruct((count,), jnp.int32))
    text = lowered.compile({"xla_backend_optimization_level": "0"}).as_text()
    # On CPU a normaliser reaches the columns of its head by products with zeros and ones (tests/test_counts.py).
    sums = 4 * config.num_heads**2 * config.d_head * config.num_layers * config.num_positions
    sums *= config.has_attention
    assert product_flops(parse(text)) / count == counts.flops_per_token(config) + sums
    assert counts.flops_per_token_computed(config) == counts.flops_per_token(config)


def test_the_residual_network_of_width_8_has_the_parameters_worked_out_by_hand():
    model = replace(RESIDUAL, d_model=8, num_layers=3, num_heads=4, vocab_size=10, image=ImageConfig(8))
    stem, head, norms = 9 * 8, 32 * 10, 2 * (8 + 8 + 8 + 16 + 16 + 32 + 32)
    stages = 9 * 2 * 8 * 8, 9 * (8 * 16 + 16 * 16) + 8 * 16, 9 * (16 * 32 + 32 * 32) + 16 * 32
    assert counts.num_params_total(model) == stem + sum(stages) + head + norms == 19_704


def test_a_product_with_neighbourhoods_is_the_convolution():
    rng = np.random.default_rng(0)
    x, filters = rng.normal(size=(2, 6, 6, 3)).astype(np.float32), rng.normal(size=(3, 3, 3, 5)).astype(np.float32)
    for stride in (1, 2):
        found = neighbourhoods(x, stride) @ filters.reshape(-1, 5)
        for row, column in ((0, 0), (2, 4), (4, 2)):
            window = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, row : row + 3, column : column + 3]
            expected = np.einsum("bhwc,hwcf->bf", window, filters)
            np.testing.assert_allclose(found[:, row // stride, column // stride], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_an_image_has_the_same_logits_alone_and_in_any_batch_and_they_depend_on_each_pixel(model):
    params, run = filled(model), jax.jit(apply, static_argnums=0)
    together = run(model, params, IMAGES)
    assert together.shape == (6, 1, 4)
    for index in range(2):
        np.testing.assert_allclose(run(model, params, IMAGES[index : index + 1])[0], together[index], atol=1e-5)
    slopes = jax.jacobian(lambda x: run(model, params, x)[0, 0, 0])(IMAGES[:1].astype(np.float32))
    assert np.abs(slopes).min() > 0


def test_a_residual_network_is_the_slow_version_of_it():
    params = filled(RESIDUAL)

    def norm(x, weights):
        groups = x.reshape(4 if len(x) == 4 else len(x), -1, 2, x.shape[-1] // 2)
        groups = (groups - groups.mean((0, 1, 3), keepdims=True)) / np.sqrt(groups.var((0, 1, 3), keepdims=True) + 1e-6)
        y = groups.reshape(x.shape) * weights["gain"] + weights["bias"]
        return y / (1 + np.exp(-y))

    def convolve(x, weight, stride=1):
        padded, side = np.pad(x, ((1, 1), (1, 1), (0, 0))), len(x) // stride
        seen = [
            [padded[r * stride : r * stride + 3, c * stride : c * stride + 3].ravel() for c in range(side)]
            for r in range(side)
        ]
        return np.array(seen) @ weight

    def slow(image):
        x = convolve(image / 127.5 - 1, params["pixels"])
        for block, stride in (("00", 1), ("01", 2)):
            weights = params["blocks"][block]
            seen = norm(x, weights["outer_norm"])
            added = convolve(norm(convolve(seen, weights["up"], stride), weights["inner_norm"]), weights["down"])
            x = (seen[::2, ::2] @ weights["shortcut"] if stride == 2 else x) + added
        return norm(x, params["final_norm"]).mean((0, 1)) @ params["head"]

    expected = np.stack([slow(image.astype(np.float64)) for image in IMAGES])
    np.testing.assert_allclose(apply(RESIDUAL, params, IMAGES)[:, 0], expected, atol=1e-4)


def test_patches_are_cut_row_by_row_and_without_positions_their_order_says_nothing():
    image = np.arange(16).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(cut(image, 2)[0], [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
    np.testing.assert_array_equal(places(2, 4)[1], [[0, 0], [0, 1], [1, 0], [1, 1]])
    model = replace(VIT, positions="learned")
    params = filled(model)
    swapped = np.concatenate([IMAGES[:, 2:], IMAGES[:, :2]], axis=1)
    moved = apply(model, params, swapped) - apply(model, params, IMAGES)
    assert np.abs(moved).max() > 1e-3
    params["input"]["positions"][:] = 0
    np.testing.assert_allclose(apply(model, params, swapped), apply(model, params, IMAGES), atol=1e-5)


def test_positions_on_a_grid_enter_through_the_distance_by_row_and_by_column():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def score(at_query, at_key):
        turned = [rotate(x, jnp.array([[at]], jnp.int32)) for x, at in ((query, at_query), (key, at_key))]
        return float(jnp.sum(turned[0] * turned[1]))

    assert score((0, 1), (2, 5)) == pytest.approx(score((3, 2), (5, 6)), abs=1e-4)
    assert abs(score((0, 1), (2, 5)) - score((0, 1), (5, 2))) > 1e-2  # rows and columns are told apart


def test_a_shift_moves_an_image_by_at_most_an_eighth_and_a_flip_mirrors_it():
    images = np.random.default_rng(1).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)
    config = TrainConfig(
        VIT, OptimizerConfig(0.1), (10,), objective="label", data=DataConfig("x.npz", augment=("shift",))
    )
    assert augment(config, Batch(images), None).inputs is images
    moved = np.asarray(augment(config, Batch(images), jax.random.key(0)).inputs)
    seen = np.zeros((3, 3), int)
    for image, found in zip(images, moved, strict=True):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        same = [(r, c) for r in range(3) for c in range(3) if (padded[r : r + 8, c : c + 8] == found).all()]
        assert len(same) == 1
        seen[same[0]] += 1
    assert seen.min() > 5  # 200 draws among nine
    config = replace(config, data=replace(config.data, augment=("flip",)))
    flipped = np.asarray(augment(config, Batch(images), jax.random.key(0)).inputs)
    is_mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert 60 < is_mirrored.sum() < 140
    np.testing.assert_array_equal(flipped[~is_mirrored], images[~is_mirrored])


@pytest.fixture(scope="module")
def images_file(tmp_path_factory):
    """A hundred images, each with a bright row that is its label."""
    with pytest.MonkeyPatch.context() as patch:
        folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
        patch.setenv("KLEIBER_CACHE", str(folder / "cache"))
        labels = np.arange(100) % 4
        images = rng.integers(0, 128, (100, 4, 4))
        images[np.arange(100), labels] += 100
        np.savez(folder / "rows.npz", images=images.astype(np.uint8), labels=labels, names=list("abcd"))
        yield folder / "rows.npz"


def config_of(model, images_file, **fields):
    return TrainConfig(
        model, OptimizerConfig(0.02), (480,), batch_size=8, objective="label",
        data=DataConfig(str(images_file), max_epochs=50, augment=("flip",)),
        schedule=ScheduleConfig("wsd", 5, 0.3), steps_per_call=7, evaluation=EvalConfig(batch_size=8), **fields,
    )  # fmt: skip


def run(config, folder, **io):
    """Returns (evaluation, weights) of a run."""
    points, final = [], lambda place, tokens: folder / "final"
    rest = {"is_measured": lambda tokens: False, "final_folder": final, **io}
    Trunk([config], open_run_data(config), TrunkIO(folder, [folder], points.append, **rest)).run()
    return points[-1].evaluation, load_arrays(folder / "final" / "step_60")[0]


@pytest.fixture(scope="module")
def runs(images_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: run(config_of(model, images_file), folder / name) for name, model in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_what_its_images_show_in_nats_an_image(name, runs):
    evaluation, _ = runs[name]
    assert evaluation.loss < 0.7 * np.log(4) and evaluation.bits_per_byte is None
    assert 10 <= evaluation.num_tokens <= 30  # a fifth of the images, by their hash


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mesh", [{"data": 2}, {"fsdp": 2}, {"tensor": 2}], ids=str)
def test_a_mesh_trains_to_the_weights_of_one_device(mesh, name, images_file, runs, tmp_path):
    config = config_of(MODELS[name], images_file, mesh=MeshConfig(**mesh))
    evaluation, weights = run(config, tmp_path)
    assert evaluation.loss == pytest.approx(runs[name][0].loss, abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_run_that_is_stopped_and_taken_up_has_the_weights_of_one_that_is_not(name, images_file, runs, tmp_path):
    config, asked = config_of(MODELS[name], images_file), []
    with pytest.raises(Stopped):
        run(config, tmp_path, should_stop=lambda: len(asked) == 3 or asked.append(1))
    again = run(config, tmp_path)[1]
    assert all(np.array_equal(again[each], array) for each, array in runs[name][1].items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": None}, "reads images: set image="),
        ({"family": "decoder"}, "reads tokens: leave image out"),
        ({"seq_len": 64}, "seq_len is 64 with an image"),
        ({"image": ImageConfig(6, patch_size=4)}, r"patch_size 4 .*side 6; choose one of \[1, 2, 3, 6\]"),
        ({"num_heads": 4}, "multiple of 4, got 8 / 4"),
        ({"has_previous_token_mix": True}, "mix is True, which says nothing to a vision_transformer"),
        ({"family": "residual_network", "is_gated": True}, "is_gated is True, which says nothing to a residual"),
        ({"family": "residual_network", "num_layers": 4}, "num_layers 4 does not divide over image.num_stages 3"),
        ({"family": "residual_network", "num_layers": 3, "image": ImageConfig(6)}, "side 6 cannot be halved 2 times"),
    ],
)  # fmt: skip
def test_a_shape_that_makes_no_sense_is_refused_and_the_field_named(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(VIT, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "next_token"}, "set objective='label'"),
        ({"data": DataConfig("digits", tokenizer="sentencepiece:1000")}, "data.tokenizer is 'sentencepiece:1000'"),
        ({"mesh": MeshConfig(context=2)}, "mesh.context is 2"),
        ({"evaluation": EvalConfig(num_bytes=5)}, "evaluation.num_bytes is 5"),
        ({"model": ModelConfig(8, 1, 2), "data": DataConfig(augment=("flip",))}, "for images alone"),
    ],
)  # fmt: skip
def test_a_run_that_mixes_text_and_images_is_refused_and_the_field_named(fields, message, images_file):
    with pytest.raises(ValueError, match=message):
        replace(config_of(VIT, images_file), **fields)
