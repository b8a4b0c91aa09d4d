"""A tokenizer as the files that transformers opens: tokenizer.json of github.com/huggingface/tokenizers, and what
stands beside it. The ids are ours for any text, and text begins, as a prompt of `kleiber generate` does, behind the end
of a document.

A byte is written as GPT-2 writes it: printable ones of Latin-1 as themselves, the others as letters from U+0100 on.
A SentencePiece model is written as the merges that lead to its pieces, best score first, which is the order that it
merges in.
"""

import json
from typing import Any

from kleiber.train.data.tokenizers import ByteTokenizer, SentencePieceTokenizer, Tokenizer

SPACE = "\u2581"
"""SentencePiece's mark of a space."""
PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
"""Bytes that are written as themselves."""


def byte_letters() -> list[str]:
    """Returns the letter of each byte."""
    others = [byte for byte in range(256) if byte not in PRINTABLE]
    return [chr(byte if byte in PRINTABLE else 256 + others.index(byte)) for byte in range(256)]


def separator_of(tokenizer: Tokenizer) -> int:
    """Returns the token that ends a document."""
    return int(tokenizer.encode([b""])[0][0])


def tokenizer_files(tokenizer: Tokenizer, begins_with_separator: bool, seq_len: int) -> dict[str, str]:
    """Returns the content of each file by name.

    Args:
      tokenizer: of the run.
      begins_with_separator: whether the model has seen documents behind the end of others.
      seq_len: tokens that the model reads at most.

    Raises:
      ValueError: the tokenizer has no counterpart.
    """
    if isinstance(tokenizer, ByteTokenizer):
        parts, separator = _of_bytes(), byte_letters()[separator_of(tokenizer)]
    elif isinstance(tokenizer, SentencePieceTokenizer):
        parts, separator = _of_pieces(tokenizer), tokenizer.pieces()[separator_of(tokenizer)][0]
    else:
        raise ValueError(f"the tokenizer {tokenizer.name} has no counterpart: bytes and sentencepiece have one.")
    number = parts["model"]["vocab"][separator]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    whole = {
        **{"version": "1.0", "truncation": None, "padding": None},
        "added_tokens": [{"id": number, "content": separator, **flags, "special": True}],
        **parts,
        "post_processor": _template(separator, number) if begins_with_separator else None,
    }
    told = {
        **{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": seq_len},
        **{"bos_token": separator, "eos_token": separator, "clean_up_tokenization_spaces": False},
        "split_special_tokens": True,  # in a text they are text
    }
    files = {"tokenizer.json": whole, "tokenizer_config.json": told}
    return {name: json.dumps(content, indent=1, ensure_ascii=False) + "\n" for name, content in files.items()}


def _of_bytes() -> dict[str, Any]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocabulary = {letter: byte for byte, letter in enumerate(byte_letters())}
    return {"normalizer": None, "pre_tokenizer": level, "decoder": level, "model": _model(vocabulary, [], None)}


def _of_pieces(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    pieces = tokenizer.pieces()
    vocabulary = {piece: number for number, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces:
        splits = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        known = [(vocabulary[a], vocabulary[b]) for a, b in splits if a in vocabulary and b in vocabulary]
        merges += [(-score, a, b) for a, b in sorted(known)]
    merges.sort(key=lambda merge: merge[0])  # stable: those of one piece stay together
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": _model(vocabulary, [[pieces[a][0], pieces[b][0]] for _, a, b in merges], pieces[0][0]),
    }


def _model(vocabulary: dict[str, int], merges: list[list[str]], unknown: str | None) -> dict[str, Any]:
    """Returns the merges of byte pairs; where a token is unknown its bytes stand for what has none."""
    nothing = dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    has_bytes = unknown is not None
    more = {"unk_token": unknown, "fuse_unk": has_bytes, "byte_fallback": has_bytes, "ignore_merges": False}
    return {"type": "BPE", **nothing, **more, "vocab": vocabulary, "merges": merges}


def _template(separator: str, number: int) -> dict[str, Any]:
    """Returns what puts the end of a document in front of a text."""

    def of(*names: str) -> list[dict[str, Any]]:
        before = {"SpecialToken": {"id": separator, "type_id": 0}}
        return [part for name in names for part in (before, {"Sequence": {"id": name, "type_id": 0}})]

    special = {separator: {"id": separator, "ids": [number], "tokens": [separator]}}
    return {"type": "TemplateProcessing", "single": of("A"), "pair": of("A", "B"), "special_tokens": special}


def is_of_bytes(content: dict[str, Any]) -> bool:
    """Returns whether the content of a tokenizer.json gives each byte its own value as its id."""
    model = content.get("model")
    if not isinstance(model, dict) or content.get("normalizer"):
        return False
    return model.get("vocab") == {letter: byte for byte, letter in enumerate(byte_letters())} and not model["merges"]
