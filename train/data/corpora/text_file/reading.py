"""The documents of a text file of the user's own, by what the file holds and not by its name.

UTF-8, or UTF-16 or UTF-32 with a byte order mark; gzip, bzip2 and xz are unpacked. JSON is one object a line, or one
array of objects, each with its text under a key. Anything else is prose whose documents are split at blank lines; if
that gives too few to hold some out, at lines, and at last into pieces of 1,000 characters.
"""

import bz2
import codecs
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FEWEST_DOCUMENTS = 20
SMALLEST_BYTES = 4_096
PIECE_CHARACTERS = 1_000
PACKED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress}
"""First bytes of a packed file -> what unpacks it."""
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Byte order mark -> encoding; the longer ones first, as one begins like another."""
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")


def read_documents(path: Path, key: str = "text") -> list[str]:
    """Returns the documents of a text or JSON file, in order, copies included. Raises ValueError if the file is empty,
    too small, no text of a known encoding, or a piece of JSON has no such text.

    Args:
      path: the file.
      key: of the text in each JSON object; `text+label` puts what stands under label below it.
    """
    text = read_text(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_named = any(suffix in JSON_SUFFIXES for suffix in suffixes[-2:])
    documents = read_json_documents(path, text, key) if is_named or _is_json(text, key) else cut_text(text)
    distinct = set(documents)
    num_bytes = sum(len(document.encode()) for document in distinct)
    if num_bytes < SMALLEST_BYTES or len(distinct) < 2:
        raise ValueError(
            f"{path} is too small: {len(distinct)} distinct documents of {num_bytes} bytes in all, expected at least "
            f"2 documents and {SMALLEST_BYTES} bytes (and far more for a scaling law: some tokens a parameter)."
        )
    return documents


def read_text(path: Path) -> str:
    """Returns the text of a file, unpacked and decoded. Raises ValueError if it cannot be, or is empty."""
    content = path.read_bytes()
    for start, unpack in PACKED.items():
        if content.startswith(start):
            try:
                content = unpack(content)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as mistake:
                raise ValueError(f"{path} is packed and cannot be unpacked ({mistake}): is it whole?") from None
    if not content.strip():
        raise ValueError(f"{path} is empty; a corpus needs at least {SMALLEST_BYTES} bytes of text.")
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and 0 in content:
        raise ValueError(
            f"{path} holds a NUL byte at offset {content.index(0)}: that is a binary file, or UTF-16 without its byte "
            f"order mark (iconv -f utf-16le -t utf-8 {path.name} > utf8.txt)."
        )
    try:
        return content.decode(encoding)  # a byte order mark is no text
    except UnicodeDecodeError as mistake:
        raise ValueError(
            f"{path} is not {encoding.removesuffix('-sig').upper()}: byte 0x{content[mistake.start]:02x} at offset "
            f"{mistake.start} ({mistake.reason}); convert it first, such as: iconv -f latin1 -t utf-8 {path.name} > "
            "utf8.txt"
        ) from None


def cut_text(text: str) -> list[str]:
    """Returns the documents of plain text: paragraphs, or lines, or pieces, whichever are first enough to split."""
    text = text.replace("\r\n", "\n")
    for boundary in (r"\n[ \t]*\n", r"\n"):
        documents = [part.strip("\n") for part in re.split(boundary, text)]
        documents = [document for document in documents if document.strip()]
        if len(documents) >= FEWEST_DOCUMENTS:
            return documents
    return [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]


def _is_json(text: str, key: str) -> bool:
    """Returns whether a file of any name begins as JSON with a text under the key: prose hardly does."""
    start = text.lstrip()
    if start.startswith("["):
        start = start[1:].lstrip()
    if not start.startswith("{"):
        return False
    try:
        first, _ = json.JSONDecoder().raw_decode(start)
    except ValueError:
        return False
    return isinstance(first, dict) and text_of(first, key) is not None


def text_of(record: dict[str, Any], key: str) -> str | None:
    """Returns the text under a key, or of several joined by `+` one under the other; None where one has none."""
    parts = [record.get(name) for name in key.split("+")]
    return "\n".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else None


def read_json_records(path: Path, keys: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Returns the texts under these keys of every object of a JSON file. Raises ValueError: an object lacks one."""
    text = read_text(path)
    columns = [[each for _, each in _texts(path, text, key)] for key in keys]
    return list(zip(*columns, strict=True))


def read_json_documents(path: Path, text: str, key: str) -> list[str]:
    """Returns the text under `key` of every object that has more than blanks there: of each non-empty line, or of one
    JSON array or object."""
    return [each for _, each in _texts(path, text, key) if each.strip()]


def _texts(path: Path, text: str, key: str) -> Iterator[tuple[str, str]]:
    """Yields (where it stands, the text under the key) of every object."""
    try:
        whole = json.loads(text)
    except ValueError:
        lines = ((f"line {number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
        records = ((place, _parsed(path, place, line)) for place, line in lines)
    else:
        records = ((f"entry {n}", each) for n, each in enumerate(whole if isinstance(whole, list) else [whole], 1))
    for place, record in records:
        found = text_of(record, key) if isinstance(record, dict) else None
        if found is None:
            keys = sorted(record) if isinstance(record, dict) else type(record).__name__
            raise ValueError(
                f"{path}, {place} has no text under the key '{key}', found {keys}; name another key as {path.name}#KEY."
            )
        if any("\ud800" <= character <= "\udfff" for character in found):
            raise ValueError(f"{path}, {place} has half a character (an unpaired surrogate), which no UTF-8 holds.")
        yield place, found


def _parsed(path: Path, place: str, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as mistake:
        raise ValueError(f"{path}, {place} is not JSON: {mistake}") from None
