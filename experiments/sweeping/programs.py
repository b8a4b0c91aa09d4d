"""The program of a command as it is now: the files that it names, and their fingerprint."""

import sys
from pathlib import Path

from kleiber.scaling.own_law.function import file_digest
from kleiber.train.config import TrainConfig


def program_files(config: TrainConfig) -> list[str]:
    """Returns the first two files that a command names, as a script and its config; none are of this interpreter."""
    assert config.command
    named = config.command.arguments(config)
    return [name for name in named if name != sys.executable and Path(name).is_file()][:2]


def program_key(config: TrainConfig) -> str:
    """Returns the name of a program, such as `program train.py`."""
    return f"program {' and '.join(program_files(config))}"


def program_fingerprint(config: TrainConfig) -> str | None:
    """Returns the first 16 hexadecimal digits of the digest of each of its files; None where it names none."""
    return " ".join(file_digest(name)[:16] for name in program_files(config)) or None
