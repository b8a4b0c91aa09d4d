"""Labelled images: read, checked, split without leaks, kept in arrays that are checked, and told by a finished run."""

import gzip
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from kleiber.experiments.api.runs import sweep
from kleiber.experiments.cli import main
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.data_problems import data_problems
from kleiber.model.config import ModelConfig
from kleiber.model.image import ImageConfig
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.corpora.catalogue import prepare_corpus
from kleiber.train.data.corpora.images import reading
from kleiber.train.data.corpora.images.labelled import LabelledImages, split_by_hash
from kleiber.train.data.corpora.images.reading import digits_of
from kleiber.train.data.corpora.prepared import read_corpus_manifest
from kleiber.train.data.images import open_images, source_of
from kleiber.train.data.run_data import open_run_data


def quiet(line):
    pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KLEIBER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def images_of(count=60, side=4, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (count, side, side)).astype(np.uint8),
        "labels": np.arange(count) % labels,
    }


def run_of(corpus, num_images=40, side=4, vocab_size=3):
    shape = ModelConfig(8, 1, 2, vocab_size=vocab_size, family="vision_transformer", image=ImageConfig(side))
    return TrainConfig(shape, OptimizerConfig(0.01), (num_images,), objective="label", data=DataConfig(str(corpus)))


def test_a_file_of_arrays_is_split_by_its_pixels_and_every_image_is_on_one_side(cache):
    arrays = images_of()
    arrays["images"][30:33] = arrays["images"][:3]  # copies stand where their originals do
    np.savez(cache / "own.npz", **arrays, names=["a", "b", "c"])
    data = open_run_data(run_of(cache / "own.npz"))
    found = [{image.tobytes() for image in source.images} for source in (data.train, data.validation)]
    assert not found[0] & found[1] and found[0] | found[1] == {image.tobytes() for image in arrays["images"]}
    label_of = {image.tobytes(): label for image, label in zip(arrays["images"], arrays["labels"], strict=True)}
    batch = data.train.batch(run_of("x"), np.array([[0, 3], [2, 1]]))
    assert batch.inputs.shape == (2, 2, 4, 4, 1) and batch.targets.shape == (2, 2, 1)
    assert batch.targets[0, 1, 0] == label_of[batch.inputs[0, 1].tobytes()]
    assert data.split_overlap == 0 and data.num_validation_bytes is None and data.train.names == ("a", "b", "c")
    assert data.train.fingerprint.startswith("file/images/")


def test_about_a_fifth_is_held_out_whatever_the_order():
    found = LabelledImages(*images_of(2000).values(), ("a", "b", "c"))
    splits = split_by_hash(found)
    assert abs(len(splits["validation"].labels) / 2000 - 0.2) < 0.04
    turned = split_by_hash(found[np.arange(2000)[::-1]])
    assert {i.tobytes() for i in splits["train"].images} == {i.tobytes() for i in turned["train"].images}


def test_digits_are_read_from_the_packed_table(tmp_path):
    rows = np.tile(np.arange(64) % 17, (3, 1))
    text = "\n".join(",".join(map(str, [*row, digit])) for row, digit in zip(rows, (7, 0, 9), strict=True))
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(text.encode()))
    found = digits_of(tmp_path / "digits.csv.gz")
    assert found.images.shape == (3, 8, 8, 1) and found.labels.tolist() == [7, 0, 9]
    assert found.images[0, 0, :3, 0].tolist() == [0, 16, 32] and found.images[0, 2, 0, 0] == 255  # 16 is black


def test_without_the_package_of_the_digits_the_line_that_installs_it_is_told(cache, monkeypatch):
    def missing(name):
        raise reading.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(reading.importlib.metadata, "distribution", missing)
    with pytest.raises(ValueError, match=r"not installed; .*pip install scikit-learn==1\.9\.1"):
        prepare_corpus("digits", quiet)


def test_a_labelled_dataset_of_tfds_is_a_corpus_of_images(cache):
    with tfds.testing.mock_data(num_examples=80):
        folder = prepare_corpus("tfds:mnist", quiet)
    manifest = read_corpus_manifest(folder)
    assert manifest["images"] == {"side": 28, "channels": 1, "labels": [str(digit) for digit in range(10)]}
    assert manifest["tfds"]["keys"] == ["image", "label"]
    source = source_of(folder, "tfds:mnist", "validation")
    assert source.images.dtype == np.uint8 and source.vocab_size == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.r_[np.arange(59) % 3, 7], "names": ["a", "b", "c"]}, "image 59 has the label 7, expected 0"),
        ({"labels": np.r_[-1, np.arange(59) % 3]}, "image 0 has the label -1, expected 0 to 2"),
        ({"labels": np.zeros(60, int)}, "images of one label, '0', expected two or more"),
        ({"labels": np.arange(60) % 3 * 2}, "no image to train on has the label '1', '3'"),
        ({"labels": np.arange(50) % 3}, "60 images and 50 labels"),
        ({"labels": np.arange(60) / 2}, "labels of type float64, expected one whole"),
        ({"images": np.zeros((60, 4, 4))}, r"shape \(60, 4, 4, 1\) and type float64, expected uint8"),
        ({"images": np.zeros((60, 4, 6), np.uint8)}, "4 x 6 pixels, expected squares"),
        ({"images": np.zeros((9, 4, 4), np.uint8), "labels": np.arange(9)}, "holds 9 images, expected at least 20"),
    ],
)  # fmt: skip
def test_images_that_make_no_sense_are_refused_and_nothing_is_left(cache, change, message):
    np.savez(cache / "own.npz", **images_of() | change)
    with pytest.raises(ValueError, match=message):
        prepare_corpus(str(cache / "own.npz"), quiet)
    assert not list((cache / "cache").glob("corpora/*/1*"))


def test_a_file_that_holds_no_arrays_is_refused(cache):
    (cache / "own.npz").write_text("no arrays")
    with pytest.raises(ValueError, match="is no file of arrays"):
        prepare_corpus(str(cache / "own.npz"), quiet)
    np.savez(cache / "own.npz", images=images_of()["images"])
    with pytest.raises(ValueError, match="holds no array 'labels'"):
        prepare_corpus(str(cache / "own.npz"), quiet)
    np.savez(cache / "own.npz", images=np.array([{}]), labels=np.arange(1))  # a pickle is not opened
    with pytest.raises(ValueError, match="is no file of arrays"):
        prepare_corpus(str(cache / "own.npz"), quiet)


def test_damage_is_found_whenever_images_are_opened(cache):
    np.savez(cache / "own.npz", **images_of())
    run = run_of(cache / "own.npz")
    open_images(run, "train")
    path = next((cache / "cache").rglob("train.images.npy"))
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="train.images.npy is damaged; delete"):
        open_images(run, "train")
    path.unlink()
    with pytest.raises(ValueError, match="train.images.npy is missing; delete"):
        open_images(run, "train")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"side": 8}, "images of side 4 and 1 channels, model.image says side 8 and 1; set image="),
        ({"vocab_size": 5, "side": 4}, "has 3 labels, model.vocab_size is 5; set vocab_size=3"),
        ({"num_images": 5000, "side": 4}, "is too short: the plan trains on 5,000 tokens"),
    ],
)
def test_a_plan_tells_what_of_the_images_does_not_fit(cache, run, message):
    np.savez(cache / "own.npz", **images_of())
    prepare_corpus(str(cache / "own.npz"), quiet)
    (problem,) = data_problems(Experiment("x", "?", (run_of(cache / "own.npz", **run),), laws=()))
    assert message in problem


def test_a_plan_tells_that_a_corpus_of_text_is_none_of_images(cache):
    (problem,) = data_problems(Experiment("x", "?", (run_of("cloud-docs"),), laws=()))
    assert "corpus cloud-docs holds text, and the model reads images; set data.corpus to digits" in problem


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep on images: its directory, and its only run."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("swept")
        patch.setenv("KLEIBER_CACHE", str(folder / "cache"))
        arrays = images_of(120)
        arrays["images"][np.arange(120), arrays["labels"]] //= 4
        np.savez(folder / "own.npz", **arrays)
        study = Experiment("seen", "?", (run_of(folder / "own.npz", 90),), laws=())
        assert sweep(study, folder / "out", workers=1, report=False, is_quiet=True).exit_code == 0
        yield folder / "out", next(each.parent for each in (folder / "out").glob("runs/*/record.json"))


def test_a_score_of_images_stands_beside_the_majority_and_a_linear_model_of_their_pixels(swept, capsys):
    assert main(["score", str(swept[1]), "--json"]) == 0
    found, record = json.loads(capsys.readouterr().out), json.loads((swept[1] / "record.json").read_text())
    assert found["nats_per_label"] == pytest.approx(record["loss"], abs=1e-5)
    confusion = np.array(found["confusion"])
    assert confusion.sum() == record["num_validation_tokens"] == found["scores"]["linear"]["num_examples"]
    assert found["scores"]["model"]["accuracy"] == np.trace(confusion) / confusion.sum()
    assert found["scores"]["majority"]["accuracy"] in confusion.sum(axis=1) / confusion.sum()
    assert main(["score", str(swept[1])]) == 0
    assert "images of 3 labels" in capsys.readouterr().out


@pytest.mark.parametrize("line", [["generate"], ["eval", "--text"], ["score", "--file"]], ids=lambda line: line[0])
def test_what_is_of_text_alone_is_refused_for_a_run_on_images(swept, line, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("A text.")
    verb, *options = line
    assert main([verb, str(swept[1]), *options, *([str(tmp_path / "text.txt")] if options else [])]) == 2
    assert "labels of images" in capsys.readouterr().err


def test_the_report_shows_what_the_best_run_takes_for_what(swept, tmp_path):
    from kleiber.experiments.report import drawing
    from kleiber.experiments.report.results import read_results
    from kleiber.scaling.figures.style import claim_of

    study = drawing.Study(read_results(swept[0]))
    figure, record = drawing.draw(study, "labels"), json.loads((swept[1] / "record.json").read_text())
    assert f"of {record['num_validation_tokens']} held-out images are told right" in claim_of(figure)
    assert drawing.png(figure).startswith(b"\x89PNG")


def test_preparing_own_images_says_how_many_of_each_label_each_split_has(tmp_path, monkeypatch, capsys):
    from kleiber.experiments.cli import main

    monkeypatch.setenv("KLEIBER_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 255, (90, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(90) % 3)
    assert main(["data", "prepare", str(tmp_path / "own.npz"), "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert np.sum([split["num_of_label"] for split in splits.values()], axis=0).tolist() == [30, 30, 30]
    assert main(["data", "prepare", str(tmp_path / "own.npz")]) == 0
    assert "4 x 4 pixels, labels 0, 1, 2" in capsys.readouterr().out
