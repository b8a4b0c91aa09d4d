"""Tokenizers: bytes, and SentencePiece models trained on a corpus. Any text has an encoding in both."""

import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from kleiber.files import read_json, write_json
from kleiber.train.data.cache import build_folder

UNKNOWN = "unknown"
"""Name of the tokenizer of a model that was converted without one of KNOWN."""
KNOWN = "bytes and SentencePiece"
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 1_000, 65_536
TRAINING_BYTES = 64_000_000  # enough text to learn merges from; more only takes longer


class Tokenizer(Protocol):
    """Turns documents into token ids; every document ends with a separator token."""

    name: str
    vocab_size: int

    @property
    def line_ends(self) -> frozenset[int]:
        """The ids of the tokens whose text ends with a newline."""

    def encode(self, documents: list[bytes]) -> list[np.ndarray]:
        """Returns the ids of each UTF-8 document, its separator included."""

    def decode(self, ids: np.ndarray) -> bytes:
        """Returns the UTF-8 of ids, each separator as a newline."""


class ByteTokenizer:
    """Each byte of the UTF-8 is its own id; a newline, of which cleaned documents hold none, ends a document."""

    name = "bytes"
    vocab_size = 256
    line_ends = frozenset(b"\n")

    def encode(self, documents: list[bytes]) -> list[np.ndarray]:
        """Returns uint8 arrays, one a document."""
        return [np.frombuffer(document + b"\n", np.uint8) for document in documents]

    def decode(self, ids: np.ndarray) -> bytes:
        """Returns the bytes; the inverse of encode on one document is everything but the last byte."""
        return np.asarray(ids, np.uint8).tobytes()


class SentencePieceTokenizer:
    """A byte-pair model with all 256 bytes in reserve, no normalisation; the end-of-text id ends a document."""

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.get_piece_size()
        self.name = f"sentencepiece:{self.vocab_size}"

    def pieces(self) -> list[tuple[str, float]]:
        """Returns (text, score) of each token, by its id; the better the score, the sooner it is merged."""
        return [(self._processor.id_to_piece(each), self._processor.get_score(each)) for each in range(self.vocab_size)]

    @property
    def line_ends(self) -> frozenset[int]:
        """The ids of the tokens whose text ends with a newline."""
        return frozenset(
            place for place, (piece, _) in enumerate(self.pieces()) if piece == "<0x0A>" or piece.endswith("\n")
        )

    def encode(self, documents: list[bytes]) -> list[np.ndarray]:
        """Returns uint16 arrays, one a document."""
        separator = self._processor.eos_id()
        texts = [document.decode() for document in documents]
        return [np.array([*ids, separator], np.uint16) for ids in self._processor.encode(texts)]

    def decode(self, ids: np.ndarray) -> bytes:
        """Returns the text of ids. The character U+2581, SentencePiece's own mark of a space, comes back as a space."""
        separator = self._processor.eos_id()
        pieces = np.split(ids, np.flatnonzero(np.asarray(ids) == separator) + 1)
        texts = [self._processor.decode([int(i) for i in piece if i != separator]) for piece in pieces]
        return "\n".join(texts).encode()


def vocabulary_size(tokenizer: str) -> int:
    """Returns the vocabulary of a tokenizer's name, which needs no trained model. Raises ValueError if the name is
    neither `bytes` nor `sentencepiece:SIZE` with a size in range."""
    if tokenizer == "bytes":
        return ByteTokenizer.vocab_size
    kind, _, size = tokenizer.partition(":")
    if kind != "sentencepiece" or not size.isdecimal():
        raise ValueError(
            f"unknown tokenizer '{tokenizer}', expected bytes or sentencepiece:SIZE, e.g. sentencepiece:4096."
        )
    if not SMALLEST_VOCABULARY <= int(size) <= LARGEST_VOCABULARY:
        raise ValueError(
            f"tokenizer '{tokenizer}' asks for {size} pieces, expected {SMALLEST_VOCABULARY} to {LARGEST_VOCABULARY}."
        )
    return int(size)


def train_sentencepiece(documents: Iterable[bytes], size: int) -> bytes:
    """Returns a SentencePiece model; the same documents in the same order give the same bytes. Raises ValueError if the
    documents are too few for so large a vocabulary.

    Args:
      documents: UTF-8; the first TRAINING_BYTES of them are used.
      size: of the vocabulary.
    """
    import sentencepiece

    def texts() -> Iterable[str]:
        num_bytes = 0
        for document in documents:
            yield document.decode()
            num_bytes += len(document)
            if num_bytes > TRAINING_BYTES:
                return

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts()),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            max_sentence_length=1 << 20,
            num_threads=1,  # the number of threads changes the model
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as mistake:
        most = re.search(r"value <= (\d+)", str(mistake))
        if most is None:
            raise ValueError(f"no vocabulary of {size} pieces can be learnt from this corpus: {mistake}") from None
        raise ValueError(
            f"tokenizer 'sentencepiece:{size}' asks for {size:,} pieces, and this text allows {int(most[1]):,} at most"
            f": use more text, {f'sentencepiece:{most[1]}, ' if int(most[1]) >= SMALLEST_VOCABULARY else ''}or bytes"
        ) from None
    return model.getvalue()


def prepare_tokenizer(folder: Path, tokenizer: str, documents: Iterable[bytes]) -> Tokenizer:
    """Returns a tokenizer of a prepared corpus; a SentencePiece model is trained once, on the documents of the training
    split, and kept with its SHA-256."""
    size = vocabulary_size(tokenizer)
    if tokenizer == "bytes":
        return ByteTokenizer()
    home = tokenizer_home(folder, tokenizer)

    def build(partial: Path) -> None:
        model = train_sentencepiece(documents, size)
        (partial / "tokenizer.model").write_bytes(model)
        described = {"tokenizer": tokenizer, "vocab_size": size, "sha256": hashlib.sha256(model).hexdigest()}
        write_json(partial / "tokenizer.json", described)

    build_folder(home, lambda place: (place / "tokenizer.json").is_file(), build)
    return SentencePieceTokenizer(read_model(home))


def stored_tokenizer(name: str, model: bytes) -> Tokenizer:
    """Returns the tokenizer of a name; any but `bytes` is what its trained model says."""
    if name == UNKNOWN:
        raise ValueError(
            f"the tokenizer of this model is none of kleiber's, which are {KNOWN}: its token ids alone work."
        )
    return ByteTokenizer() if name == "bytes" else SentencePieceTokenizer(model)


def tokenizer_home(folder: Path, tokenizer: str) -> Path:
    """Returns where the trained model of a tokenizer lies in the folder of a prepared corpus."""
    return folder / "tokenizers" / tokenizer.replace(":", "-")


def read_model(home: Path) -> bytes:
    """Returns the SentencePiece model of a folder, after its SHA-256 has been checked. Raises ValueError if the model
    is not the one that was trained."""
    model = (home / "tokenizer.model").read_bytes()
    expected = read_json(home / "tokenizer.json", "sha256")["sha256"]
    if hashlib.sha256(model).hexdigest() != expected:
        raise ValueError(f"{home / 'tokenizer.model'} is damaged: its SHA-256 is not {expected}; delete {home}.")
    return model
