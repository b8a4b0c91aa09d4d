"""The log that W&B writes offline, run-ID.wandb: records in blocks of 32 KiB, each piece with a checksum.

Framing is that of LevelDB's log (github.com/google/leveldb, doc/log_format.md) after 7 bytes of its own, with plain
CRC-32; field numbers: wandb/proto/wandb_internal.proto.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from kleiber.experiments.importing.logged import ImportProblem, LoggedRun, Value, cut_short, flat
from kleiber.experiments.importing.wire import Fields, fields, inner, text
from kleiber.files import read_plain

HEADER, BLOCK, PIECE = b":W&B\xe1\xbe\x00", 32_768, 7
"""What the file begins with; bytes of a block, and of the head of a piece."""


def wandb_log_run(path: Path, takes_cut: bool = False) -> LoggedRun:
    """Returns the run of a log: its settings, every row of its history, and its summary where that says more.

    Raises:
      ImportProblem: it is none, or cut and `takes_cut` does not say to take what stands before that.
    """
    config: dict[str, Value] = {}
    summary: dict[str, Value] = {}
    rows: list[dict[str, Value]] = []
    name = path.stem.removeprefix("run-")
    for record in map(fields, _records(path, takes_cut)):
        if run := inner(record, 17):
            name = text(run, 8) or text(run, 1) or name
            config |= _items(inner(run, 4))
        config |= _items(inner(record, 5))
        summary |= _items(inner(record, 3))
        if 2 in record:
            rows.append(_items(inner(record, 2)))
    logged = {key for row in rows for key in row}
    summary = {key: value for key, value in summary.items() if key not in logged}
    own = {key: value for key, value in {**config, **summary}.items() if not key.startswith("_wandb")}
    return LoggedRun(name, path.parent, own, rows)


def _items(message: Fields) -> dict[str, Value]:
    """Returns the values of a message of items: a key, or its parts, and the value as JSON."""
    found = {}
    for item in map(fields, message.get(1, ())):
        key = text(item, 1) or ".".join(part.decode(errors="replace") for part in item.get(2, ()))
        found[key] = json.loads(text(item, 16) or "null")
    return flat(found)


def _records(path: Path, takes_cut: bool) -> Iterator[bytes]:
    data, at, count, parts = read_plain(path), len(HEADER), 0, b""
    if data[:at] != HEADER:
        raise ImportProblem(f"{path} is no log of W&B that is known here; sync it, and import the export.")
    while at < len(data):
        if (left := BLOCK - at % BLOCK) < PIECE:  # too small for a piece: filled with zeros
            at += left
            continue
        head = data[at : at + PIECE]
        crc, length, kind = struct.unpack("<IHB", head) if len(head) == PIECE else (0, 0, 0)
        body = data[at + PIECE : at + PIECE + length]
        if not 1 <= kind <= 4 or len(body) < length or zlib.crc32(bytes([kind]) + body) != crc:
            return cut_short(path, count, at, len(data), takes_cut)
        parts = body if kind <= 2 else parts + body  # whole, first, middle, last
        if kind in (1, 4):
            yield parts
            count += 1
        at += PIECE + length
    return None
