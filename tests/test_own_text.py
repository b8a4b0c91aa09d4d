"""Claims about a user's own text: read by what the file holds, refused with the reason before anything is spent."""

import bz2
import gzip
import json
import lzma

import pytest

from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.plan import make_plan
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig
from kleiber.train.data.corpora.catalogue import prepare_corpus
from kleiber.train.data.corpora.text_file.reading import read_documents

TEXTS = [f"Note {n} é\nover two lines, {'and long ' * 30}".rstrip() for n in range(30)]
LINES = "\n".join(json.dumps({"text": text}) for text in TEXTS).encode()
ARRAY = json.dumps([{"text": text} for text in TEXTS], indent=1).encode()
PROSE = "\n\n".join(TEXTS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KLEIBER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("docs.json", LINES),
        ("DOCS.JSONL", LINES),
        ("docs.txt", LINES),
        ("docs.json", ARRAY),
        ("docs", ARRAY),
        ("docs.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("docs.txt", PROSE.encode("utf-16")),
        ("docs.txt", b"\xfe\xff" + PROSE.encode("utf-16-be")),
        ("docs.txt", PROSE.encode("utf-32")),
        ("docs.jsonl", b"\xef\xbb\xbf" + LINES),
        ("docs.txt.gz", gzip.compress(PROSE.encode("utf-16"), mtime=0)),
        ("docs.txt.xz", lzma.compress(PROSE.encode())),
        ("docs.bz2", bz2.compress(PROSE.encode())),
    ],
)
def test_the_same_documents_are_found_however_the_file_is_written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert read_documents(path) == TEXTS


def test_prose_that_begins_with_a_brace_stays_prose(tmp_path):
    path = tmp_path / "notes.tex"
    path.write_text("{\\bf not JSON}\n\n" + PROSE)
    assert read_documents(path)[1:] == TEXTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(PROSE.encode(), mtime=0)[:-20], "packed and cannot be unpacked"),
        (PROSE.encode("utf-16-le"), "UTF-16 without its byte order mark"),
        (PROSE.encode("latin1"), "is not UTF-8: byte 0xe9"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_cause(tmp_path, content, message):
    path = tmp_path / "own.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_documents(path)


def test_copies_left_out_are_told_again_when_the_corpus_is_there_already(tmp_path):
    path = tmp_path / "copies.txt"
    path.write_text("\n\n".join([*TEXTS, *TEXTS[:6]]))
    said: list[list[str]] = [[], []]
    for lines in said:
        prepare_corpus(str(path), lines.append)
    told = [line for line in said[1] if "6 of 36 documents" in line and "#all keeps them" in line]
    assert len(told) == 1 and told[0] in said[0]


def planned(path, tokenizer: str, num_tokens: int) -> tuple[str, ...]:
    data = DataConfig(str(path), tokenizer=tokenizer, max_epochs=2)
    trunk = TrainConfig(ModelConfig(16, 1, 2, seq_len=32), OptimizerConfig(0.01), (num_tokens,), data=data)
    return make_plan(Experiment("e", "?", (trunk,), laws=()), 1).refusals


def test_a_plan_refuses_a_vocabulary_and_a_length_that_a_file_cannot_give_and_prepares_nothing(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(PROSE)
    (refusal,) = planned(path, "sentencepiece:1000", 2_000)
    assert "asks for 1,000 pieces, and this text allows" in refusal and "trainer_interface" not in refusal
    (refusal,) = planned(path, "bytes", 2 * (len(PROSE.encode()) + 2) + 1)  # a byte of separator a document
    assert "is too short" in refusal
    assert planned(path, "bytes", 2_000) == () and not (tmp_path / "cache").exists()
