"""Claims about tokens: every text has an encoding that loses nothing, files say what they are, damage is found."""

import json
import re
import shutil
from pydoc_data.topics import topics

import numpy as np
import pytest

from kleiber.files import write_json
from kleiber.train.config import DataConfig
from kleiber.train.data.corpora.catalogue import prepare_corpus
from kleiber.train.data.corpora.prepared import read_corpus_manifest, read_split
from kleiber.train.data.tokenizers import (
    ByteTokenizer,
    SentencePieceTokenizer,
    prepare_tokenizer,
    train_sentencepiece,
    vocabulary_size,
)
from kleiber.train.data.tokens import open_token_file, prepare_tokens, tokens_folder
from kleiber.train.data.windows import open_tokens

PARAGRAPHS = [part.encode() for topic in topics.values() for part in topic.split("\n\n") if part.strip()]
TEXTS = [
    b"plain words",
    b"  spaces  in  rows ",
    b"lines\nand\n\nblank\tlines\r\n",
    "日本語 Ελληνικά 🎉 é e\u0301 ﬁ ½".encode(),
    b"\x01\x02\x7f",
    "\u2028\ufeff\u00a0\ufffd\U0010ffff".encode(),
    b"x" * 5000,
]


@pytest.fixture(scope="module")
def model() -> bytes:
    return train_sentencepiece(PARAGRAPHS, 1000)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The help topics of Python as a corpus, encoded as bytes."""
    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\n\n".join(topics.values()), encoding="utf-8")
    folder = prepare_corpus(str(path), lambda line: None)
    prepare_tokens(folder, "bytes", lambda line: None)
    return folder


@pytest.fixture
def copied(prepared, tmp_path):
    """The same folder, to be damaged."""
    return shutil.copytree(prepared, tmp_path / "corpus")


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_and_pieces_give_the_text_back(model, text):
    for tokenizer in (ByteTokenizer(), SentencePieceTokenizer(model)):
        (ids,) = tokenizer.encode([text])
        assert tokenizer.decode(ids) == text + b"\n"
        assert 0 <= ids.min() and ids.max() < tokenizer.vocab_size


def test_the_separator_of_pieces_comes_from_no_text(model):
    tokenizer = SentencePieceTokenizer(model)
    encoded = tokenizer.encode([*TEXTS, b"</s>", b"<unk>", b"<0x0A>"])
    separator = tokenizer.encode([b""])[0][0]
    assert all((ids == separator).sum() == 1 and ids[-1] == separator for ids in encoded)


def test_training_pieces_is_deterministic_and_pieces_are_longer_than_bytes(model):
    assert train_sentencepiece(iter(PARAGRAPHS), 1000) == model
    ids = SentencePieceTokenizer(model).encode(PARAGRAPHS)
    assert 2 < sum(map(len, PARAGRAPHS)) / sum(map(len, ids)) < 5


@pytest.mark.parametrize("name", [f"sentencepiece:{size}" for size in ("999", "65537", "", "4k", "-5")] + ["bpe"])
def test_a_tokenizer_out_of_range_or_misspelt_is_refused(name):
    with pytest.raises(ValueError, match=r"expected (bytes or sentencepiece:SIZE|1000 to 65536)"):
        vocabulary_size(name)


def test_more_pieces_than_the_text_can_teach_are_refused_and_as_many_as_are_named_are_not():
    with pytest.raises(ValueError, match="asks for 60,000 pieces, and this text allows 2,9.. at most") as refused:
        train_sentencepiece(PARAGRAPHS[:50], 60_000)
    most = int(re.search(r"use more text, sentencepiece:(\d+)", str(refused.value))[1])
    assert train_sentencepiece(PARAGRAPHS[:50], most)
    with pytest.raises(ValueError, match=f"and this text allows {most:,} at most"):
        train_sentencepiece(PARAGRAPHS[:50], most + 1)


def test_a_damaged_model_is_refused(copied):
    prepare_tokenizer(copied, "sentencepiece:1000", PARAGRAPHS)
    flip(copied / "tokenizers" / "sentencepiece-1000" / "tokenizer.model", 5_000)
    with pytest.raises(ValueError, match=r"tokenizer\.model is damaged"):
        prepare_tokenizer(copied, "sentencepiece:1000", PARAGRAPHS)


def test_a_token_file_is_the_documents_one_after_another(prepared):
    for split in ("train", "validation"):
        file = open_token_file(prepared, "bytes", split)
        documents = [text for _, texts in read_split(prepared, read_corpus_manifest(prepared), split) for text in texts]
        assert file.tokens.tobytes() == b"".join(text + b"\n" for text in documents)
        starts, ends = file.offsets[:-1], file.offsets[1:]
        assert [file.tokens[a:b].tobytes() for a, b in zip(starts, ends, strict=True)] == [d + b"\n" for d in documents]
        assert sorted(file.groups) == list(range(len(documents)))  # no groups in a text file: each stands alone
        assert file.num_text_bytes == len(file.tokens)


def test_pieces_are_stored_in_two_bytes_and_count_the_bytes_of_text(prepared):
    prepare_tokens(prepared, "sentencepiece:1000", lambda line: None)
    pieces, raw = (open_token_file(prepared, name, "train") for name in ("sentencepiece:1000", "bytes"))
    assert pieces.tokens.dtype == np.uint16 and pieces.vocab_size == 1000
    assert pieces.num_text_bytes == raw.num_text_bytes
    assert pieces.fingerprint != raw.fingerprint
    assert np.array_equal(pieces.groups, raw.groups)


def flip(path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("part", ["tokens", "offsets", "groups"])
@pytest.mark.parametrize("damage", ["flipped", "header", "cut", "emptied", "missing"])
def test_damage_to_a_token_file_is_found_and_named(copied, part, damage):
    path = tokens_folder(copied, "bytes") / f"train.{part}.npy"
    if damage in ("flipped", "header"):
        flip(path, 60 if damage == "header" else path.stat().st_size - 3)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(ValueError, match=rf"train\.{part}\.npy is (damaged|missing).*kleiber data prepare"):
        open_token_file(copied, "bytes", "train")
    open_token_file(copied, "bytes", "validation")  # the other split is whole


def test_a_file_that_changes_after_it_was_checked_is_checked_again(copied):
    path = tokens_folder(copied, "bytes") / "train.tokens.npy"
    open_token_file(copied, "bytes", "train")
    flip(path, 1000)
    with pytest.raises(ValueError, match="is damaged"):
        open_token_file(copied, "bytes", "train")


def test_a_damaged_description_and_an_unknown_split_are_named(copied):
    with pytest.raises(ValueError, match="no split 'test', only train, validation"):
        open_token_file(copied, "bytes", "test")
    path = tokens_folder(copied, "bytes") / "tokens.json"
    write_json(path, {"format": 99})
    with pytest.raises(ValueError, match=r"tokens\.json is damaged \(format 99"):
        open_token_file(copied, "bytes", "train")


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "missing", "other"])
def test_damaged_records_are_found_when_they_are_encoded(copied, damage):
    records = next(copied.rglob("*-train.array_record*"))
    if damage == "flipped":
        flip(records, 70_000)
    elif damage == "cut":
        records.write_bytes(records.read_bytes()[:100_000])
    elif damage == "emptied":
        records.write_bytes(b"")
    elif damage == "missing":
        records.unlink()
    else:  # whole by their own hashes, but not the text that the manifest describes
        manifest = read_corpus_manifest(copied)
        manifest["splits"]["train"]["sha256"] = "0" * 64
        (copied / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(tokens_folder(copied, "bytes"))
    with pytest.raises(ValueError, match="are damaged"):
        prepare_tokens(copied, "bytes", lambda line: None)
    assert not tokens_folder(copied, "bytes").exists()


def test_a_text_shorter_than_a_window_is_refused(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text("\n\n".join(f"Paragraph {number} of a very small text file." for number in range(120)))
    with pytest.raises(ValueError, match=r"fewer than one window of seq_len \+ 1 = 4097"):
        open_tokens(DataConfig(corpus=str(path)), "validation", 4096)
