"""Writes the weights of a finished run as a safetensors file, with its config and record in the metadata; or merged
with their adapter; or the adapter alone as peft reads it; or the folder that transformers opens.

example: kleiber export out/quickstart/runs/d64-L2-s0-2ad14a-D102400 --to d64 --form huggingface
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
    """The file to write; with --form peft or huggingface the folder."""
    form: Literal["weights", "merged", "peft", "huggingface"] = "weights"
    """weights as they are; merged, with the adapter (lora, dora, adalora) in its matrices; peft, the adapter alone;
    huggingface, config.json, model.safetensors and the tokenizer as transformers reads them."""


def run(options: Options) -> int:
    """Writes the file; returns 0."""
    from kleiber.experiments.api.runs import load

    found = load(options.run)
    written = found.export(options.to, options.form)
    print(f"{written}: {options.form} of {found.name}, {written.stat().st_size:,} bytes")
    return EXIT_DONE
