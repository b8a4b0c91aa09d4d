"""Training runs in Python: plan and run an experiment, read what a sweep found, open one run."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kleiber.experiments.config_file import from_data, load_experiment
from kleiber.experiments.experiment import Experiment

if TYPE_CHECKING:
    from flax import nnx

    from kleiber.experiments.answers.answer import Answer, Answers
    from kleiber.experiments.api.fits import Fitted
    from kleiber.experiments.planning.plan import Plan
    from kleiber.experiments.sweeping.sweep import SweepResult
    from kleiber.train.config import TrainConfig


def plan(experiment: str | Experiment, workers: int | None = None) -> "Plan":
    """Returns what an experiment would do, cost and teach; starts nothing.

    Args:
      experiment: the path of a config file, the name of a shipped experiment, or one made in Python.
      workers: local processes to plan for; one on each core if left out.

    Raises:
      ValueError: no such experiment, or a mistake in it.
    """
    from kleiber.experiments.planning.plan import make_plan
    from kleiber.experiments.sweeping.workers import default_workers

    found = _experiment(experiment)
    return make_plan(found, workers or default_workers(found.trunks))


def sweep(
    experiment: str | Experiment,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    seed: int = 0,
    retry_failed: bool = False,
    max_seconds: float | None = None,
    allow: tuple[str, ...] = (),
    report: bool = True,
    is_quiet: bool = False,
) -> "SweepResult":
    """Plans, trains, fits, registers the forecast, trains the targets, scores and reports; the same call resumes.

    Args:
      experiment: as for `plan`.
      out: the sweep's directory; out/NAME if left out.
      workers: local worker processes; one on each core if left out.
      seed: added to the seed of every run, for an independent repetition.
      retry_failed: whether runs recorded as failed are run again.
      max_seconds: wall time after which everything is saved and it stops, resumable.
      allow: fields in which the experiment may differ from the one that made the directory.
      report: whether report.ipynb and report.html are written at the end.
      is_quiet: whether progress goes to log.txt only.

    Returns:
      exit_code (0 done, 3 done but its gate or a run failed, 75 stopped and resumable) and summary, a dict.

    Raises:
      ValueError: a mistake in the plan, or a directory in use or of another experiment.
    """
    from kleiber.experiments.sweeping.sweep import run_sweep, with_seed

    found = _experiment(experiment)
    found = with_seed(found, seed) if seed else found
    directory = Path(out) if out else Path("out") / found.name
    return run_sweep(found, directory, workers, retry_failed, is_quiet, report, max_seconds, allow)


def _experiment(experiment: str | Experiment) -> Experiment:
    return experiment if isinstance(experiment, Experiment) else load_experiment(str(experiment))


@dataclass(frozen=True)
class Results:
    """What a sweep's directory holds, finished or not."""

    directory: Path
    records: tuple[dict[str, Any], ...]
    """One a measured point (docs/json.md)."""
    ledger: tuple[dict[str, Any], ...]
    """Forecasts and outcomes, in the order they were written down."""
    result: dict[str, Any]
    """The sweep's own verdict, its gate included; empty before it has ended."""
    gaps: tuple[str, ...]
    """What is missing or damaged, in sentences."""

    @property
    def table(self) -> Any:
        """The records: a pandas DataFrame, or a dict of arrays without pandas."""
        return _frame(self.records)

    @property
    def fit(self) -> "Fitted":
        """The laws fitted; FileNotFoundError before there are any."""
        from kleiber.experiments.api.fits import read_fit

        return read_fit(self.directory)

    @cached_property
    def answers(self) -> "Answers":
        """What each factor does, in sentences, and what to run next: print(results.answers)."""
        from kleiber.experiments.report.drawing import Study
        from kleiber.experiments.report.results import read_results

        return Study(read_results(self.directory)).answers

    def ask(self, factor: str) -> "Answer":
        """Returns what one factor does: .sentence, .basis, .next, .effects, .best; print it for all of it.

        Raises:
          ValueError: nothing of that name varies, with the nearest that does.
        """
        return self.answers.of(factor)

    def __repr__(self) -> str:
        return "\n".join([f"{len(self.records)} points in {self.directory}", *self.gaps])


def results(directory: str | Path) -> Results:
    """Returns what a sweep has found so far.

    Raises:
      FileNotFoundError: there is no such directory, or it is no sweep's.
    """
    from kleiber.experiments.report.results import read_results

    found = read_results(Path(directory))
    return Results(found.directory, found.records, found.ledger, found.result, found.gaps)


@dataclass(frozen=True)
class Run:
    """One training run of a sweep's directory: a trunk, or one measured point of it. Everything is read when used."""

    directory: Path
    """The sweep's."""
    name: str
    trunk_id: str
    """The run that was trained; its points and branches share config, metrics and checkpoints."""

    @cached_property
    def config(self) -> "TrainConfig":
        """What was trained, and how."""
        from kleiber.train.config import TrainConfig

        return from_data(TrainConfig, _read(self.directory / "runs" / self.trunk_id / "config.json"))

    @cached_property
    def records(self) -> tuple[dict[str, Any], ...]:
        """The measured points, fewest tokens first; of a point, itself."""
        pattern = self.name if self.name != self.trunk_id else f"{self.trunk_id}-D*"
        found = [_read(path) for path in (self.directory / "runs").glob(f"{pattern}/record.json")]
        return tuple(sorted(found, key=lambda record: record["num_tokens"]))

    @property
    def record(self) -> dict[str, Any]:
        """The measured point (of a trunk, the longest): counts, FLOPs, loss, seed, versions."""
        if not self.records:
            raise FileNotFoundError(f"no point of {self.name} has been measured yet in {self.directory}.")
        return self.records[-1]

    @property
    def metrics(self) -> Any:
        """The step log, one row each: a pandas DataFrame, or a dict of arrays without pandas."""
        path = self.directory / "runs" / self.trunk_id / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return _frame([json.loads(line) for line in lines])

    @cached_property
    def params(self) -> dict[str, Any]:
        """The weights of the newest checkpoint as NumPy arrays by path, every digest checked.

        Raises:
          FileNotFoundError: there is no checkpoint.
          CheckpointError: it is damaged; says where.
        """
        from kleiber.train.checkpoints.checkpoint import load_arrays

        place, member = self._newest_checkpoint()
        arrays, _ = load_arrays(place)
        # With delayed synchronisation the replicas differ; what is evaluated is the parameters they share.
        start = "outer/params/" if self.config.delayed_sync else "params/"
        chosen = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
        return {name: array if member is None else array[member] for name, array in chosen.items()}

    @property
    def model(self) -> "nnx.Module":
        """The NNX module with these weights: model(tokens_BT) gives logits_BTV."""
        from kleiber.model.functional import as_module

        tree: dict[str, Any] = {}
        for name, array in self.params.items():
            *folders, last = name.split("/")
            place = tree
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = array
        return as_module(self.config.model, tree)

    def _newest_checkpoint(self) -> tuple[Path, int | None]:
        """Returns a checkpoint's folder and, in one of a population, which member the run is."""
        from kleiber.train.checkpoints.checkpoint import steps
        from kleiber.train.checkpoints.identity import run_identity
        from kleiber.train.checkpoints.manifest import read_manifest

        def newest(folder: Path) -> Path | None:
            found = [(step, place) for place in (folder / "checkpoints").glob("*") for step in steps(place)]
            return max(found)[1] / f"step_{max(found)[0]}" if found else None

        runs, own = self.directory / "runs", run_identity([self.config])
        if place := newest(runs / self.trunk_id):
            return place, None
        for folder in runs.glob("population-*"):
            if place := newest(folder):
                members = (read_manifest(place)["identity"] or {}).get("members", [])
                if own in members:
                    return place, members.index(own)
        raise FileNotFoundError(f"there is no checkpoint of {self.trunk_id} in {self.directory}.")

    def __repr__(self) -> str:
        losses = ", ".join(f"{r['loss']:.4f} after {r['num_tokens']:,} tokens" for r in self.records if r.get("loss"))
        return f"{self.name} in {self.directory}: {losses or 'nothing measured yet'}"


def open_run(directory: str | Path, name: str) -> Run:
    """Returns one run of a sweep's directory.

    Args:
      directory: of a sweep, or of `kleiber train`.
      name: of a trunk or a point, as its folder in runs/; the beginning is enough where only one trunk has it.

    Raises:
      FileNotFoundError: there is no such directory.
      ValueError: no run has that name, with the nearest, or several have.
    """
    runs = Path(directory) / "runs"
    if not runs.is_dir():
        raise FileNotFoundError(f"{directory} holds no runs/; give the directory of a sweep.")
    names = sorted(path.name for path in runs.iterdir() if path.is_dir() and not path.name.startswith("population-"))
    if name in names:
        return Run(Path(directory), name, _trunk_of(name))
    trunks = sorted({_trunk_of(each) for each in names if each.startswith(name)} if name else ())
    if len(trunks) == 1:
        return Run(Path(directory), trunks[0], trunks[0])
    near = trunks or difflib.get_close_matches(name, names, n=3, cutoff=0.3)
    reason = f"{len(trunks)} runs begin so" if trunks else "the nearest are"
    raise ValueError(
        f"{directory} has no run {name!r}; {reason}: {', '.join(near[:8]) or 'none, it has no run at all'}."
    )


def _trunk_of(name: str) -> str:
    return name.rpartition("-D")[0] or name


def _read(path: Path) -> Any:
    from kleiber.experiments.directory.record import read_json

    return read_json(path)


def _frame(rows: Sequence[dict[str, Any]]) -> Any:
    """Returns rows as a DataFrame, or as a dict of arrays [rows] where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        import numpy as np

        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name) for row in rows]) for name in names}
    return pandas.DataFrame(list(rows))
