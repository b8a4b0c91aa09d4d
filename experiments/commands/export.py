"""Writes the weights of a finished run as a safetensors file, with its config and record in the metadata; or merged
with their adapter, or the adapter alone as peft reads it.

example: kleiber export out/quickstart/runs/d64-L2-s0-2ad14a-D102400 --to d64.safetensors
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE


@dataclass(frozen=True)
class Options:
    """Options of `kleiber export`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, in a sweep or copied elsewhere, or DIRECTORY/NAME with the beginning of its name."""
    to: Path
    """The file to write; with --form peft the folder."""
    form: Literal["weights", "merged", "peft"] = "weights"
    """weights as they are; merged, with the adapter (lora, dora) in its matrices; peft, the adapter alone."""


def run(options: Options) -> int:
    """Writes the file; returns 0."""
    from kleiber.experiments.api.runs import load

    found = load(options.run)
    found.export(options.to, options.form)
    written = options.to / "adapter_model.safetensors" if options.form == "peft" else options.to
    print(f"{written}: {options.form} of {found.name}, {written.stat().st_size:,} bytes")
    return EXIT_DONE
