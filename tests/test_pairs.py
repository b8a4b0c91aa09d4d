"""Corpora of pairs: read, checked, split by document without leaks, packed into rows that lose nothing."""

import io
import tarfile
import zipfile

import numpy as np
import pytest

from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.data_problems import data_problems
from kleiber.model.config import ModelConfig
from kleiber.model.encoder import EncoderConfig
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.corpora import catalogue, packages
from kleiber.train.data.corpora.catalogue import find_corpus, prepare_corpus, write_corpus
from kleiber.train.data.corpora.pairs.aligned import Pair, PairCorpus, split_pairs
from kleiber.train.data.corpora.pairs.office_help import read_office_help
from kleiber.train.data.corpora.pairs.reading import read_pairs
from kleiber.train.data.corpora.pairs.ua_gec import read_ua_gec
from kleiber.train.data.corpora.prepared import read_corpus_manifest
from kleiber.train.data.pairs import open_pairs, pack
from kleiber.train.data.run_data import open_held_out, open_run_data
from kleiber.train.data.tokens import prepare_tokens


def run_of(corpus, source_len=40, target_len=32, **fields):
    model = ModelConfig(
        8, 1, 2, seq_len=target_len, family="encoder_decoder", encoder=EncoderConfig(1, source_len), vocab_size=256
    )
    data = DataConfig(str(corpus), max_epochs=9)
    return TrainConfig(model, OptimizerConfig(0.1), (320,), objective="sequence_to_sequence", data=data, **fields)


def quiet(line):
    pass


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two hundred pairs of forty documents."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("pairs")
        patch.setenv("KLEIBER_CACHE", str(folder / "cache"))
        lines = [f"the source {n}\t{'x' * (n % 9)} target {n}\tbook {n // 5}" for n in range(200)]
        (folder / "own.en-uk.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        prepare_tokens(prepare_corpus(str(folder / "own.en-uk.tsv"), quiet), "bytes", quiet)
        yield folder / "own.en-uk.tsv"


def texts_of(source):
    """Returns the (source, target) texts in the rows of a split, and in how many rows each stands."""
    batch = source.batch(None, np.arange(len(source)))
    found = []
    for inputs, targets, ids in zip(batch.inputs, batch.targets, batch.segments, strict=True):
        for number in range(1, ids.max() + 1):
            one = bytes(inputs[: source.source_len][ids[: source.source_len] == number].astype(np.uint8))
            is_target = ids[source.source_len :] == number
            other = bytes(targets[is_target].astype(np.uint8))
            assert bytes(inputs[source.source_len :][is_target].astype(np.uint8)) == b"\n" + other[:-1]
            assert one.endswith(b"\n") and other.endswith(b"\n")
            found.append((one[:-1].decode(), other[:-1].decode()))
    return found


def test_every_pair_is_in_one_row_of_one_split_and_documents_stay_whole(table):
    splits = {name: texts_of(open_pairs(run_of(table), name)) for name in ("train", "validation", "test")}
    everywhere = [pair for pairs in splits.values() for pair in pairs]
    number = lambda pair: int(pair[0].split()[-1])  # noqa: E731
    assert sorted(map(number, everywhere)) == list(range(200))
    assert all(target.split()[-1] == source.split()[-1] for source, target in everywhere)
    books = {name: {number(pair) // 5 for pair in pairs} for name, pairs in splits.items()}
    assert all(len(pairs) == 5 * len(books[name]) for name, pairs in splits.items())
    assert len(splits["validation"]) == len(splits["test"]) == 10  # .04 of 200, in whole documents
    manifest = read_corpus_manifest(catalogue.prepared_folder(find_corpus(str(table))))
    assert manifest["pairs"] == {"source": "en", "target": "uk", "left_out": {"copies": 0, "leaks": 0}}
    assert manifest["splits"]["train"]["num_pairs"] == 180


def test_targets_alone_weigh_and_rows_to_be_measured_are_of_one_document(table):
    config = run_of(table)
    data = open_run_data(config)
    batch = data.train.batch(config, np.arange(len(data.train)).reshape(1, -1))
    assert batch.inputs.shape == (1, len(data.train), 72) and batch.weights.shape == (1, len(data.train), 32)
    np.testing.assert_array_equal(batch.weights > 0, batch.segments[..., 40:] > 0)
    assert batch.weights.sum() == data.train.num_targets == sum(len(t) + 1 for _, t in texts_of(data.train))
    assert data.train.num_targets / batch.weights.size > 0.8  # rows are full
    one_by_one = pack(data.validation.lengths, (40, 32), data.validation.file.groups[::2])
    for row in range(one_by_one.max() + 1):
        assert len(set(data.validation.file.groups[::2][one_by_one == row])) == 1
    again = open_held_out(config, data.train.fingerprint)
    np.testing.assert_array_equal(again.windows, data.windows)
    assert data.num_validation_bytes is None and data.bits_per_byte(1.0) is None


def test_a_row_is_filled_by_the_first_that_fits_on_both_sides():
    lengths = np.array([[6, 6], [5, 1], [4, 4], [1, 5], [5, 5]])
    assert pack(lengths, (10, 10)).tolist() == [0, 1, 0, 1, 2]
    assert pack(lengths, (10, 10), np.array([0, 0, 1, 1, 1])).tolist() == [0, 1, 2, 2, 3]


def test_copies_are_left_out_and_nothing_that_is_held_out_is_learnt():
    pairs = [Pair(f"source {n}", f"target {n}", f"book {n // 10}") for n in range(200)]
    splits, left_out = split_pairs(PairCorpus(pairs), "here")
    held = splits["test"][0], splits["validation"][0]
    learnt = splits["train"][0].document
    leaks = [Pair(held[0].source, "other", learnt), Pair("other", held[1].target, learnt)]
    leaks.append(held[0]._replace(document=learnt))
    again, now = split_pairs(PairCorpus([*pairs, *leaks, pairs[3]]), "here")
    assert left_out == {"copies": 0, "leaks": 0} and now == {"copies": 2, "leaks": 2}
    assert again == splits
    official = split_pairs(PairCorpus(pairs, test_documents=frozenset({"book 7"})), "here")[0]
    assert {pair.document for pair in official["test"]} == {"book 7"}


def test_two_files_are_pairs_line_by_line_and_blank_lines_end_documents(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n\nthree\n")
    (tmp_path / "a.zh").write_text("一\n二\n\n三\n", encoding="utf-8")
    found = read_pairs(f"{tmp_path / 'a.en'}::{tmp_path / 'a.zh'}")
    assert found.languages == ("en", "zh")
    assert found.pairs == [Pair("one", "一", "0"), Pair("two", "二", "0"), Pair("three", "三", "1")]
    corpus = find_corpus(f"{tmp_path / 'a.en'}::{tmp_path / 'a.zh'}")
    assert corpus.has_pairs and corpus.slug.startswith("file-a-")
    (tmp_path / "a.zh").write_text("一\n二\n\n四\n", encoding="utf-8")
    assert find_corpus(f"{tmp_path / 'a.en'}::{tmp_path / 'a.zh'}").slug != corpus.slug


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ("a\nb\nc", "x\ny", "has 3 lines and .* has 2, .*line 3 is the first without a partner"),
        ("a\n\nb\nc", "x\ny\nz", "has 4 lines and .* has 3, .*line 2 is the first that is blank in one of them alone"),
        ("a\n\nb", "x\ny\nz", "line 2 of .*: the source is empty"),
        ("a\nb\nc", "x\n \nz", "line 2 of .*: the target is empty"),
    ],
)
def test_files_whose_lines_do_not_go_together_are_refused_and_the_line_named(one, other, message, tmp_path):
    (tmp_path / "a.en").write_text(one)
    (tmp_path / "a.uk").write_text(other)
    with pytest.raises(ValueError, match=message):
        read_pairs(f"{tmp_path / 'a.en'}::{tmp_path / 'a.uk'}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\nc", "line 2 has 1 columns, expected source, tab, target"),
        ("a\tb\nc\t", "line 2: the target is empty"),
        ("\tb", "line 1: the source is empty"),
    ],
)
def test_a_table_with_a_line_that_is_no_pair_is_refused_and_the_line_named(text, message, tmp_path):
    (tmp_path / "own.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(str(tmp_path / "own.tsv"))
    assert message.split()[1] in data_problems(Experiment("x", "?", (run_of(tmp_path / "own.tsv"),), laws=()))[0]


def test_too_few_pairs_are_refused_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("KLEIBER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own.tsv").write_text("".join(f"a {n}\tb {n}\n" for n in range(50)))
    with pytest.raises(ValueError, match="50 distinct pairs of 50 documents, expected at least 100"):
        prepare_corpus(str(tmp_path / "own.tsv"), quiet)
    assert not list((tmp_path / "cache").glob("corpora/*/1*"))


def test_pairs_longer_than_a_row_are_counted_and_the_length_that_holds_them_is_told(table):
    with pytest.raises(ValueError, match=r"of 180 pairs .*than a row of 40 .*and 16 of target.*model.seq_len=24"):
        open_pairs(run_of(table, target_len=16), "train")


def test_text_and_pairs_are_told_apart_and_what_reads_them_is_said(table, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(f"document {n} " * 40 for n in range(60)))
    with pytest.raises(ValueError, match="holds text, and the model reads pairs"):
        open_run_data(run_of(tmp_path / "text.txt"))
    text = TrainConfig(ModelConfig(8, 1, 2), OptimizerConfig(0.1), (9,), data=DataConfig(str(table)))
    with pytest.raises(ValueError, match="holds pairs of texts, which a model of family 'encoder_decoder' reads"):
        open_run_data(text)
    assert "holds pairs of texts" in data_problems(Experiment("x", "?", (text,), laws=()))[0]
    with pytest.raises(FileNotFoundError, match=r"pairs are PATH::PATH, or one PATH\.tsv"):
        find_corpus("no.en::no.uk")


def test_corrections_are_read_of_the_wheel_and_the_test_is_the_official_one(tmp_path):
    folder = "ua_gec/data/gec-fluency"
    files = {
        "train/source-sentences/0001.src.txt": "a b\n\nc",
        "train/target-sentences/0001.a1.txt": "A b\n\nc",
        "train/target-sentences/0001.a2.txt": "A  B\n\nc",
        "test/source-sentences/0002.src.txt": "d",
        "test/target-sentences/0002.a1.txt": "D",
        "test/target-sentences/0002.a2.txt": "other",
    }
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{folder}/{name}", text)
    found = read_ua_gec(tmp_path / "x.whl")
    assert found.test_documents == {"0002"}
    both = [(pair.source, pair.target) for pair in found.pairs]
    assert both == [("d", "D"), ("a b", "A b"), ("c", "c"), ("a b", "A B"), ("c", "c")]


def package(path, files):
    """Writes a Debian package: an `ar` archive with an archive of files in it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"./usr/share/libreoffice/help/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    content = b"!<arch>\n"
    for name, part in ((b"debian-binary", b"2.0"), (b"data.tar.xz", data.getvalue())):
        content += name.ljust(48) + str(len(part)).encode().ljust(10) + b"`\n" + part + b"\n" * (len(part) % 2)
    path.write_bytes(content)
    return path


def test_paragraphs_of_two_packages_are_joined_by_page_and_number(tmp_path):
    page = '<h1 id="hd_id1">{}</h1><p id="par_id2">{} <b>{}</b></p><p>no number</p><p id="par_id3">Same</p><div>x</div>'
    one = package(tmp_path / "one.deb", {"en-US/a.html": page.format("Open", "Save", "it"), "en-US/b.html": page})
    other = package(tmp_path / "other.deb", {"zh-CN/a.html": page.format("打开", "保", "存"), "zh-CN/c.html": page})
    found = read_office_help([one, other])
    assert found.pairs == [Pair("Open", "打开", "a.html"), Pair("Save it", "保 存", "a.html")]
    assert found.languages == ("en", "zh")
    (tmp_path / "none.deb").write_text("nothing")
    with pytest.raises(ValueError, match="is no Debian package"):
        read_office_help([tmp_path / "none.deb", other])


def test_a_package_that_cannot_be_fetched_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="Debian package libreoffice-help-en-us, .*no apt-get here.*by other means"):
        packages.fetch_packages("office-help-en-zh", ("libreoffice-help-en-us",), tmp_path)
    (tmp_path / "libreoffice-help-en-us_1_all.deb").write_text("")
    assert len(packages.fetch_packages("office-help-en-zh", ("libreoffice-help-en-us",), tmp_path)) == 1


def test_what_was_left_out_is_said_when_a_corpus_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("KLEIBER_CACHE", str(tmp_path / "cache"))
    lines = [f"source {n}\ttarget {n}" for n in range(150)]
    (tmp_path / "own.tsv").write_text("\n".join([*lines, *lines[:7]]))
    told = []
    (tmp_path / "folder").mkdir()
    write_corpus(find_corpus(str(tmp_path / "own.tsv")), {}, tmp_path / "folder", told.append)
    assert any("left out 7 copies, and 0 pairs" in line for line in told)
