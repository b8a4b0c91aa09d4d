"""Arrays as a safetensors file: the length of a JSON header, the header, then the bytes of every array.

Source: github.com/huggingface/safetensors, "Format". It is short enough that no package is needed for it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kleiber.files import check_plain, replacing

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
READ = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
MAX_HEADER_BYTES = 100_000_000
"""Of the format."""


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays by name, and texts by name beside them, whole or not at all."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": DTYPES[str(array.dtype)], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name, read from it as they are used.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, cut short, or holds numbers of another kind than floats of 16 or 32 bits; says which.
    """
    size = check_plain(path).st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{path} is no whole safetensors file: its header should take {length:,} of {size:,} bytes."
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        entries = {name: each for name, each in header.items() if name != "__metadata__"}
        content = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.zeros(0, np.uint8)
        return {name: _array(path, name, each, content) for name, each in entries.items()}
    except (KeyError, TypeError, AttributeError, RecursionError, UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise ValueError(f"{path} is no whole safetensors file: its header makes no sense ({problem}).") from None


def _array(path: Path, name: str, entry: dict[str, Any], content: np.ndarray) -> np.ndarray:
    if entry["dtype"] not in READ:
        raise ValueError(f"{path}: {name} holds {entry['dtype']}, expected {', '.join(READ)}.")
    dtype, shape, (start, end) = READ[entry["dtype"]], entry["shape"], entry["data_offsets"]
    numbers = (*shape, start, end)
    if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in numbers):
        raise ValueError(f"{path}: {name} has the shape {shape} at {start} to {end}, which makes no sense.")
    if end > len(content):
        raise ValueError(f"{path} is cut short: {name} ends {end - len(content):,} bytes behind its end.")
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path}: {name} of the shape {shape} has {end - start:,} bytes, which is another number.")
    return content[start:end].view(dtype).reshape(shape)
