"""Trains one run of an experiment: its first trunk, or the one named.

example: kleiber train quickstart --set model.d_model=64 --set num_tokens=500000 --out out/one
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from kleiber.experiments.config_file import changed, load_experiment


@dataclass(frozen=True)
class Options:
    """Options of `kleiber train`."""

    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")]
    """Path of a config file, or the name of a shipped experiment."""
    trunk: int = 0
    """Which trunk of the experiment, counted from 0 in the order of the config."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Change a field of the trunk, such as optimizer.learning_rate=0.01; may be repeated."""
    out: Path | None = None
    """Run directory; default out/train-NAME."""
    max_seconds: float | None = None
    """Save and stop after this many seconds of wall time, with exit code 75; the same line goes on."""
    allow: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A field in which the config may differ from the one that made --out, such as optimizer.learning_rate; the run
    goes on from its checkpoint. May be repeated."""
    json: bool = False
    """Print one JSON object with the records at the end."""


def run(options: Options) -> int:
    """Trains the run in a sweep directory of its own, with the same records, checkpoints and resume."""
    from kleiber.experiments.directory.record import read_records
    from kleiber.experiments.sweeping.sweep import run_sweep
    from kleiber.experiments.sweeping.workers import idle_cores_hint
    from kleiber.experiments.terminal import tell

    experiment = load_experiment(options.experiment)
    if not 0 <= options.trunk < len(experiment.trunks):
        raise ValueError(f"--trunk {options.trunk}: {experiment.name} has trunks 0 to {len(experiment.trunks) - 1}.")
    one = replace(experiment, trunks=experiment.trunks[options.trunk :][:1], targets=(), laws=())
    one = changed(one, options.set)
    if (hint := idle_cores_hint(one.trunks[0])) and not options.json:
        tell(hint)
    directory = options.out or Path("out") / f"train-{experiment.name}"
    result = run_sweep(
        one,
        directory,
        1,
        is_quiet=options.json,
        has_report=False,
        max_seconds=options.max_seconds,
        allow=options.allow,
    )
    records = read_records(directory)
    if options.json:
        print(json.dumps({**result.summary, "records": [record.to_json() for record in records]}, indent=1))
        return result.exit_code
    for record in records:
        said = record.reason
        if record.loss:  # a run that failed has none, nor a speed
            error = record.loss_standard_error
            said = f"loss {record.loss:.4f}{'' if error is None else f' +- {error:.4f}'} nats per token, "
            said += f"{record.tokens_per_second:,.0f} tokens/s"
        tell(f"{record.run_id}: {record.status}, {said}")
    return result.exit_code
