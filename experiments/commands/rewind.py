"""Takes up a run at its newest checkpoint before a bad batch, leaves that batch out, and trains on in a new directory.

The result is, bit for bit, that of training from the start with `--set guard.skip_batches=...`: the batches up to the
first one left out are the same, so a checkpoint of them may stand for them. The old directory is not touched.

example: kleiber rewind out/train-quickstart --skip-batches 1200:1230 --out out/rewound
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Options:
    """Options of `kleiber rewind`."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Of `kleiber train` or `kleiber sweep`."""
    out: Path
    """Where the continuation goes; must be new, or one begun by this very line, which then goes on."""
    skip_batches: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIRST:END, batches of the data order from FIRST up to but not including END, counted from 0, as the message of a
    stopped run names them. May be repeated."""
    run: str | None = None
    """The trunk, when DIR has several."""
    json: bool = False
    """Print one JSON object with the records at the end."""


def run(options: Options) -> int:
    """Makes the continuation's directory, if it is not there, and trains in it."""
    from kleiber.experiments.directory.record import read_records
    from kleiber.experiments.sweeping.rewind import rewind
    from kleiber.experiments.sweeping.sweep import run_sweep
    from kleiber.experiments.terminal import tell

    experiment, step = rewind(options.directory, options.out, options.skip_batches, options.run)
    if not options.json:
        tell(f"from step {step} of {options.directory}" if step else "no checkpoint is that old: from the beginning")
    result = run_sweep(experiment, options.out, 1, is_quiet=options.json, has_report=False)
    records = read_records(options.out)
    if options.json:
        rows = [record.to_json() for record in records]
        print(json.dumps({**result.summary, "from_step": step, "records": rows}, indent=1))
        return result.exit_code
    for record in records:
        scored = f"loss {record.loss:.4f} nats per token" if record.loss else record.reason
        tell(f"{record.run_id}: {record.status}, {scored}")
    return result.exit_code
