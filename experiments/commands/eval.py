"""Scores the weights of a finished run: on its own validation text, where its recorded loss comes again, or on a file.

example: kleiber eval out/quickstart/runs/d64-L2-s0-2ad14a-D102400 --text notes.txt
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from kleiber.experiments.exit_codes import EXIT_DONE
from kleiber.experiments.terminal import working


@dataclass(frozen=True)
class Options:
    """Options of `kleiber eval`."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, in a sweep or copied elsewhere, or DIRECTORY/NAME with the beginning of its name."""
    text: Path | None = None
    """A text file to score in place of the validation text: UTF-8, or UTF-16 with its mark; may be gzipped."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Prints loss and bits per byte; returns 0."""
    from kleiber.experiments.api.runs import load
    from kleiber.train.data.corpora.text_file.reading import read_text

    found = load(options.run)
    compute_as_a_worker(found.config)
    text = read_text(options.text) if options.text else None
    with working(f"scoring {options.text or 'the validation text'}"):
        score = found.evaluate(text)
    recorded = None if options.text else found.record["loss"]
    if options.json:
        what = {"run": found.name, "text": options.text and str(options.text), "recorded_loss": recorded}
        print(json.dumps(what | dataclasses.asdict(score), indent=1))
        return EXIT_DONE
    unit = found.config.model.unit
    in_bytes = "" if score.bits_per_byte is None else f"{score.bits_per_byte:.4f} bits per byte, "
    told = f"loss {score.loss:.4f} +- {score.loss_standard_error:.4f} nats per {unit}, {in_bytes}"
    print(f"{found.name}: {told}{score.num_tokens:,} {unit}s")
    if recorded is not None:
        same = "equal" if recorded == score.loss else f"differs by {score.loss - recorded:+.2g}: another machine?"
        print(f"recorded {recorded:.4f}: {same}")
    return EXIT_DONE


def compute_as_a_worker(config) -> None:
    """Gives this process, before it loads jax, the settings under which workers measure."""
    import os

    from kleiber.experiments.launch.local import worker_environment
    from kleiber.experiments.sweeping.workers import num_devices

    os.environ.update(worker_environment(num_devices([config])))
