"""Writes the weights of a finished run as a safetensors file, with its config and record in the metadata.

example: kleiber export out/quickstart/runs/d64-L2-s0-2ad14a-D102400 --to d64.safetensors
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE


@dataclass(frozen=True)
class Options:
    """Options of `kleiber export`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, in a sweep or copied elsewhere, or DIRECTORY/NAME with the beginning of its name."""
    to: Path
    """The file to write."""


def run(options: Options) -> int:
    """Writes the file; returns 0."""
    from kleiber.experiments.api.runs import load

    found = load(options.run)
    found.export(options.to)
    print(f"{options.to}: {len(found.params)} arrays of {found.name}, {options.to.stat().st_size:,} bytes")
    return EXIT_DONE
