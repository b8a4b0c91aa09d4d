"""Adds up the processor seconds of seals in every process that starts with this folder on PYTHONPATH."""

import atexit
import os
import time
from pathlib import Path
from typing import Any

from kleiber import files

_digest_of, _spent = files.digest_of, [0, 0.0]


def _timed(data: Any) -> str:
    started = time.thread_time()
    digest = _digest_of(data)
    _spent[0] += 1
    _spent[1] += time.thread_time() - started
    return digest


def _tell() -> None:
    (Path(os.environ["KLEIBER_SEALS_TOLD"]) / str(os.getpid())).write_text(f"{_spent[0]} {_spent[1]}")


files.digest_of = _timed
atexit.register(_tell)
