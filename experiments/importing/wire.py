"""Protocol buffers without their library: the fields of a message by number, and the checksum that frames records.

Sources: https://protobuf.dev/programming-guides/encoding; CRC-32C is RFC 3720, appendix B.4.
"""

import struct
from typing import Any

Fields = dict[int, list[Any]]


def fields(data: bytes) -> Fields:
    """Returns the values of a message by field number, in their order: int for varints, else bytes as they stand.

    Raises:
      ValueError: it is no message.
    """
    found: Fields = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}.get(kind, -1)
            if kind == 2:
                length, at = _varint(data, at)
            if not 0 <= length <= len(data) - at:
                raise ValueError("no protocol buffer")
            value, at = data[at : at + length], at + length
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
    raise ValueError("no protocol buffer")


def text(message: Fields, number: int) -> str:
    """Returns the last text of a field, empty if it has none."""
    return message[number][-1].decode(errors="replace") if number in message else ""


def inner(message: Fields, number: int) -> Fields:
    """Returns the last message of a field, without fields if it has none."""
    return fields(message[number][-1]) if number in message else {}


def real(message: Fields, number: int) -> float:
    """Returns the last float or double of a field."""
    value = message[number][-1]
    return struct.unpack("<f" if len(value) == 4 else "<d", value)[0]


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = _table()


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """Returns the checksum as record files hold it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
