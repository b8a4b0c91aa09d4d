"""Plans, runs, fits, registers the forecast, runs the targets, scores and reports. The same line resumes.

example: kleiber sweep quickstart --out out/quickstart
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Options:
    """Options of `kleiber sweep`."""

    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")]
    """Path of a config file, or the name of a shipped experiment."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Change a field of every trunk and target, such as model.d_model=64, or of the experiment; may be repeated."""
    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Values of a field for every trunk to be run with, such as optimizer.learning_rate=.004,.008; several make their
    product."""
    out: Path | None = None
    """Sweep directory; default out/NAME."""
    workers: int | None = None
    """Worker processes here, or with --launch in each job; default one for each core."""
    launch: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Where workers run: local (the default), slurm:partition=P,time=MINUTES,jobs=8,..., ray:..., kubernetes:...,
    skypilot:..., xpk:... (docs/clusters.md). Several work on one sweep together."""
    seed: int | None = None
    """Added to the seed of every run, for an independent repetition of the whole experiment."""
    retry_failed: bool = False
    """Run cells again that are recorded as failed."""
    max_seconds: float | None = None
    """Save and stop after this many seconds of wall time, with exit code 75; the same line goes on."""
    allow: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A field in which the config may differ from the one that made --out, such as optimizer.learning_rate: its runs
    are trained anew, or go on from their checkpoints where no law is fitted. `data` allows another text, `versions`
    another release; `program` keeps what is done of a command's program that was edited. May be repeated."""
    track: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Show curves in tensorboard (DIR/tensorboard, the default where installed), wandb or mlflow, both offline unless
    their own variables say otherwise, or in a class of yours, my_tracker.py:MyTracker; none for none."""
    report: bool = True
    """Write report.ipynb and report.html at the end; `kleiber report` writes them later too."""
    json: bool = False
    """Print one JSON object with the result at the end, and progress to the log file only."""


def run(options: Options) -> int:
    """Runs the sweep; 0 done, 3 done but its gate or a run failed, 75 stopped and resumable."""
    from kleiber.experiments.api.runs import sweep
    from kleiber.experiments.config_file import changed, load_experiment
    from kleiber.experiments.sweeping.sweep import summary_lines
    from kleiber.experiments.terminal import tell

    result = sweep(
        changed(load_experiment(options.experiment), options.set, options.grid),
        options.out,
        workers=options.workers,
        seed=options.seed or 0,
        retry_failed=options.retry_failed,
        max_seconds=options.max_seconds,
        allow=options.allow,
        report=options.report,
        is_quiet=options.json,
        track=tuple(name for name in options.track if name != "none") if options.track else None,
        launch=options.launch,
    )
    if options.json:
        print(json.dumps(result.summary, indent=1))
    else:
        tell("\n".join(summary_lines(result.summary)))
    return result.exit_code
