"""Reading files of runs as other people write them: separators, thousands, percent signs, billions, missing values."""

import csv
import gzip
import io
import json
import re
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from kleiber.files import LOST, MAX_TEXT_BYTES, check_plain, must_be_sealed, read_plain
from kleiber.scaling.table.expression import MISSING
from kleiber.scaling.table.warned import ReadAsNumberWarning, TableError

TABLE = "table.parquet"
"""Of a sweep: the name of the table of its runs."""
SEALS = (b"kleiber.sealed", b"kleiber.seal")
"""Marks in the metadata of a table that kleiber wrote; one in nobody else's."""
BYTES_A_VALUE = 40
"""Of memory, as a Python number in a list beside its column."""
SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "bn": 1e9, "g": 1e9, "t": 1e12}
"""Of counts, as 7B or 1.3 bn; a bare number with one is read so, whatever its case."""
SUFFIXED = re.compile(r"([-+]?\d*\.?\d+(?:e[-+]?\d+)?)\s*(k|m|b|bn|g|t)", re.IGNORECASE)
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:[,_ \u00a0\u2007\u2009\u202f']\d{3})+(?:\.\d+)?")
DOTTED = re.compile(r"[-+]?\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?")
PERCENT = re.compile(r"([-+]?\d*\.?\d+)\s*%")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:e[-+]?\d+)?", re.IGNORECASE)


def read_file(path: Path) -> dict[str, Sequence[Any]]:
    """Returns the columns of a .csv, .tsv, .jsonl, .json or .parquet file, texts or numbers as they stand there;
    of a sweep's directory, those of its table.parquet.

    Raises:
      FileNotFoundError: if there is no such file.
      TableError: for an unknown kind of file, an empty one, or one that is not rectangular.
    """
    if path.is_dir():
        path = path / TABLE
    if not path.is_file():
        hint = "; a sweep writes it as its points are measured" if path.name == TABLE else ""
        raise FileNotFoundError(f"there is no table at {path}{hint}.")
    data: Mapping[str, Sequence[Any]]
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    if suffix in (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json"):
        text = _text(path)
        data = _read_json(path, text) if text.lstrip()[:1] in ("{", "[") else _read_separated(path, text, suffix)
    elif suffix in (".parquet", ".pq"):
        columns = read_parquet(path)
        data = {name: parquet_values(columns[name]) for name in columns.column_names}
    else:
        raise TableError(
            f"{path}: expected a .csv, .tsv, .jsonl, .json or .parquet file; texts may be gzipped (.csv.gz)."
        )
    if not data or not len(next(iter(data.values()))):
        raise TableError(f"{path} holds no rows.")
    return dict(data)


def read_parquet(path: Path) -> Any:
    """Returns the Arrow table of a Parquet file; one that kleiber wrote is compared with its seal.

    Raises:
      TableError: it is damaged, was changed since, or does not fit in memory.
    """
    import psutil
    import pyarrow
    import pyarrow.parquet

    try:
        check_plain(path)
        shape = pyarrow.parquet.read_metadata(path)
        needed, free = BYTES_A_VALUE * shape.num_rows * shape.num_columns, psutil.virtual_memory().available
        if needed > free:
            raise MemoryError(f"{shape.num_rows:,} rows take {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free")
        names = pyarrow.parquet.read_schema(path).names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{len(twice)} column names stand twice: {', '.join(twice)}")
        table = pyarrow.parquet.read_table(path)
        marks = {name: value for name, value in (table.schema.metadata or {}).items() if name in SEALS}
        is_own = path.name == TABLE and must_be_sealed(path)
        if (marks or is_own) and marks != dict(zip(SEALS, (b"blake3", table_digest(table)), strict=True)):
            raise ValueError("it differs from its seal: it was damaged, or changed by hand" if marks else LOST)
    except (MemoryError, pyarrow.ArrowMemoryError) as problem:
        raise TableError(f"{path} does not fit in memory ({problem}); give fewer rows or columns.") from None
    except (OSError, ValueError, pyarrow.ArrowException) as problem:
        raise TableError(
            f"{path} is not whole Parquet ({str(problem)[:200]}); write it again from where it came. A sweep's own is "
            "made from runs/: remove it and type the sweep's line."
        ) from None
    return table


def seal_table(table: Any) -> Any:
    """Returns an Arrow table with two marks in its metadata: what kind of digest, and that of its columns."""
    return table.replace_schema_metadata(dict(zip(SEALS, (b"blake3", table_digest(table)), strict=True)))


def table_digest(table: Any) -> bytes:
    """Returns the BLAKE3 of the names, types and values of an Arrow table, however it is laid out in memory."""
    digest = blake3()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(json.dumps([name, str(column.type), len(column)]).encode())
        if column.type in ("int64", "double"):
            numbers, there = column.fill_null(0), column.is_valid()
            digest.update(numbers.to_numpy().tobytes()).update(np.packbits(there.to_numpy()).tobytes())
        elif column.type == "string":  # the few different texts, and which stands where
            encoded = column.combine_chunks().dictionary_encode()
            digest.update(json.dumps(encoded.dictionary.to_pylist()).encode())
            digest.update(encoded.indices.fill_null(-1).to_numpy().tobytes())
        else:
            digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest().encode()


def arrow_columns(data: Any) -> dict[str, Sequence[Any]]:
    """Returns the columns of a table in memory that speaks Arrow, as those of pandas and polars do; an index is none.

    Raises:
      TableError: for anything else, or columns that hold values of several kinds.
    """
    if not hasattr(data, "__arrow_c_stream__"):
        raise TableError(
            f"a {type(data).__name__} is no table: give a DataFrame, an Arrow table, a dict of arrays, or the path of "
            "a .csv, .tsv, .jsonl, .json or .parquet file."
        )
    import pyarrow

    try:
        table = pyarrow.table(data)
    except (pyarrow.ArrowException, ValueError) as problem:
        raise TableError(f"{type(data).__name__}: {problem}") from None
    if not table.num_rows:
        raise TableError(f"{type(data).__name__} holds no rows.")
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    return {name: parquet_values(table[name]) for name in names}


def parquet_values(column: Any) -> Sequence[Any]:
    """Returns the values of a pyarrow column, None where missing; equal texts are one object.

    As `to_pylist`, which makes one object after another by way of a slow one: of texts the few different ones are
    made once, numbers all at once.
    """
    if column.null_count == 0 and column.type in ("int64", "double"):
        return column.to_numpy().tolist()
    if column.type == "string":
        encoded = column.combine_chunks().dictionary_encode()
        texts = [*encoded.dictionary.to_pylist(), None]
        return [texts[index] for index in encoded.indices.fill_null(len(texts) - 1).to_numpy().tolist()]
    return column.to_pylist()


def _text(path: Path) -> str:
    """Returns the text of a file, gzipped or not."""
    try:
        data = read_plain(path)
        if data[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                data = file.read(MAX_TEXT_BYTES + 1)
            if len(data) > MAX_TEXT_BYTES:
                raise TableError(f"{path} holds more than {MAX_TEXT_BYTES / 1e6:,.0f} MB of text; give fewer rows.")
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise TableError(f"{path} is not UTF-8 text; save it as UTF-8 (plain CSV).") from None
    except (OSError, EOFError, zlib.error) as problem:
        raise TableError(f"{path} is not whole gzip: {problem}.") from None
    except ValueError as problem:
        raise TableError(str(problem)) from None


def _read_separated(path: Path, text: str, suffix: str) -> Mapping[str, Sequence[str]]:
    said, text = re.match(r"sep=(.)\r?\n", text), re.sub(r"\Asep=.\r?\n", "", text)  # Excel's own first line
    first = text.partition("\n")[0]
    separator = said[1] if said else max(",;\t|", key=first.count) if suffix != ".tsv" else "\t"
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = [row for row in lines if any(each.strip() for each in row)]
    except csv.Error as problem:
        raise TableError(f"{path}: {problem}; expected a line for each run.") from None
    header, *rows = rows or [[]]
    header = [name.strip() or f"column_{index + 1}" for index, name in enumerate(header)]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise TableError(f"{path}: {len(twice)} column names stand twice in the header ({', '.join(twice)}).")
    ragged = next((index for index, row in enumerate(rows) if len(row) != len(header)), None)
    if ragged is not None:
        raise TableError(
            f"{path}: row {ragged + 2} has {len(rows[ragged])} fields, the header {len(header)}. A number written with "
            "commas must stand in quotes."
        )
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}


def _read_json(path: Path, text: str) -> Mapping[str, Sequence[Any]]:
    """Returns the columns of JSON objects, one a line or in one list."""
    rows = []
    try:
        whole = json.loads(text)
        lines = whole if isinstance(whole, list) else [whole]
    except (ValueError, RecursionError):
        lines = text.split("\n")  # nothing else ends a line: U+2028 may stand in a text
    for index, line in enumerate(lines):
        if not isinstance(line, str) or line.strip():
            try:
                rows.append(dict(json.loads(line) if isinstance(line, str) else line))
            except (ValueError, TypeError, RecursionError):
                raise TableError(f"{path}: line {index + 1} is no JSON object.") from None
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def as_numbers(name: str, texts: Sequence[str], source: str) -> np.ndarray | None:
    """Returns texts as float64 [runs] if every one is a number in one way of writing or stands for no value, else None.

    Ways other than plain numbers are read with a warning that gives an example.
    """
    there = [text for text in texts if text.lower() not in MISSING]
    if not there:
        return None
    if all(DECIMAL_COMMA.fullmatch(text) and THOUSANDS.fullmatch(text) for text in there):
        return None  # 1,300 by itself may be 1300 or 1.3
    commas = [text for text in there if "," in text]
    if "loss" in name and commas and all(DECIMAL_COMMA.fullmatch(text) for text in commas):
        if all(THOUSANDS.fullmatch(text) for text in commas):
            return None  # 6,683 beside 5 likewise, where thousands would be odd
    tried = ((how, [read(text) for text in there]) for how, read in WAYS.items())
    how, numbers = next(((how, found) for how, found in tried if None not in found), ("", None))
    if numbers is None:
        return None
    if how:
        index = next(i for i, text in enumerate(there) if _plain(text) is None)
        message = f"{source}: column {name!r} is written with {how}: {there[index]!r} is read as {numbers[index]:.12g}."
        warnings.warn(message, ReadAsNumberWarning, stacklevel=3)
    values = iter(numbers)
    return np.array([next(values) if text.lower() not in MISSING else np.nan for text in texts], dtype=np.float64)


def _plain(text: str) -> float | None:
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def _with_thousands(text: str) -> float | None:
    return float(re.sub(r"[^\d.+-]", "", text)) if THOUSANDS.fullmatch(text) else _plain(text)


def _with_dots(text: str) -> float | None:
    is_dotted = DOTTED.fullmatch(text) or re.fullmatch(r"[-+]?\d{1,3}(?:\.\d{3})?", text)
    return float(text.replace(".", "").replace(",", ".")) if is_dotted else None


def _with_percent(text: str) -> float | None:
    found = PERCENT.fullmatch(text)
    return float(found[1]) / 100 if found else None  # a bare number beside percents could be either


def _with_suffix(text: str) -> float | None:
    found = SUFFIXED.fullmatch(text)
    return float(found[1]) * SUFFIXES[found[2].lower()] if found else _plain(text)


def _with_decimal_comma(text: str) -> float | None:
    return float(text.replace(",", ".")) if DECIMAL_COMMA.fullmatch(text) else _plain(text)


WAYS: dict[str, Callable[[str], float | None]] = {
    "": _plain,
    "thousands apart": _with_thousands,
    "dots between thousands": _with_dots,
    "percent signs": _with_percent,
    "letters for thousand (k), million (M), billion (B) or trillion (T)": _with_suffix,
    "a decimal comma": _with_decimal_comma,
}
"""Ways of writing numbers, tried in this order on whole columns."""
