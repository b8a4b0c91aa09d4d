"""Runs that are cut early as hopeless: by a pruner of optuna, among runs that differ in what is searched and the seed.

Nothing is kept for it: whoever asks tells optuna the step logs that lie in the sweep's directory, so that a sweep that
was stopped goes on with the same knowledge, and workers need not speak to each other.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kleiber.experiments.directory.record import read_record, record_path
from kleiber.experiments.experiment import Experiment, Pruning
from kleiber.experiments.planning.cells import TrunkCell, trunk_cells
from kleiber.experiments.planning.varied import varied_fields
from kleiber.parallel.environment import process_in_environment
from kleiber.train.watch.metrics import whole_rows

PERCENT = 10
"""A run is judged whenever it has trained so many percent more of its tokens."""


class Hopeless(Exception):
    """A run was cut; says where, and beside which."""


def pruning_problems(experiment: Experiment) -> list[str]:
    """Returns why the pruning that an experiment asks for cannot be done, in sentences; nothing where it asks none."""
    pruning, factors = experiment.pruning, varied_fields(experiment.trunks)
    if not pruning.over:
        return []
    if importlib.util.find_spec("optuna") is None:
        return ["pruning needs the package optuna: pip install 'kleiber[prune]', or leave pruning.over empty."]
    problems = []
    for word in pruning.over:
        if not any(each.is_called(word) for each in factors):
            names = ", ".join(each.name for each in factors) or "nothing"
            problems.append(f"pruning.over names {word!r}, in which no two runs differ; these do: {names}.")
    if experiment.population_size > 1 or any(config.command for config in experiment.trunks):
        problems.append("pruning cuts runs of kleiber's own trainer one by one: set population_size=1, and no command.")
    if process_in_environment()[1] > 1:
        problems.append("pruning is done by the workers of one host; leave pruning.over empty on several.")
    try:
        _pruner(pruning)
    except (TypeError, ValueError, AttributeError) as mistake:
        problems.append(f"optuna has no pruner as {pruning} says: {mistake}")
    return problems


def rivals(experiment: Experiment, cell: TrunkCell) -> list[TrunkCell]:
    """Returns the runs that a run is judged among, itself included: alike in all but what is searched and the seed."""
    factors = varied_fields(experiment.trunks)
    searched = {each.name for each in factors if any(each.is_called(word) for word in experiment.pruning.over)}

    def place(each: TrunkCell) -> tuple[Any, ...]:
        levels = tuple(level for level in each.levels if level[0] not in searched)
        return levels if "num_tokens" in searched else (levels, each.config.num_tokens)

    return [each for each in trunk_cells(experiment, cell.split) if place(each) == place(cell) and not each.shares]


def percent_done(cell: TrunkCell, num_tokens: int) -> int:
    """Returns how far a run is with its longest point, in whole steps of PERCENT."""
    return int(100 * num_tokens / max(cell.config.num_tokens)) // PERCENT * PERCENT


def why_hopeless(experiment: Experiment, cell: TrunkCell, among: Sequence[TrunkCell], directory: Path) -> str:
    """Returns why a run is to be cut by what the step logs in a sweep's directory say; nothing if it is not.

    Args:
      experiment: with the pruning.
      cell: the run, of which the log's last row tells how far it is.
      among: from `rivals`.
      directory: of the sweep.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=experiment.name, pruner=_pruner(experiment.pruning))
    own = None
    for rival in sorted(among, key=lambda each: each.trunk_id == cell.trunk_id):
        losses, trial = _losses(rival, directory), study.ask()
        for percent, loss in losses.items():
            trial.report(loss, percent)
            is_cut = trial.should_prune()  # some pruners keep what they saw
        if rival.trunk_id == cell.trunk_id:
            own = (percent, loss, is_cut) if losses else None
        elif not rival.missing(directory):
            record = read_record(record_path(directory, rival.run_ids[max(rival.config.num_tokens)]))
            state = {"done": "COMPLETE", "pruned": "PRUNED"}.get(record.status, "FAIL")
            study.tell(trial, record.loss if state == "COMPLETE" else None, optuna.trial.TrialState[state])
    if own is None or not own[2]:
        return ""
    names = " and ".join(experiment.pruning.over)
    return (
        f"cut by optuna's {experiment.pruning.pruner} at {own[0]} % of its tokens, with a training loss of "
        f"{own[1]:.4g}, among {len(among)} runs alike in all but {names} and the seed"
    )


def _losses(cell: TrunkCell, directory: Path) -> dict[int, float]:
    """Returns the training loss at each step of PERCENT before the cooldown, as far as the run has come."""
    found: dict[int, float] = {}
    path = directory / "runs" / cell.trunk_id / "metrics.jsonl"
    for row in whole_rows(path) if path.exists() else ():
        if row["segment"] == "trunk" and row["loss"] is not None:
            found.setdefault(percent_done(cell, row["num_tokens"]), row["loss"])
    return found


def _pruner(pruning: Pruning) -> Any:
    """Returns the pruner of optuna; TypeError, ValueError or AttributeError where it has none of that name or these
    arguments."""
    import optuna

    options = {n: int(v) if isinstance(v, float) and v.is_integer() else v for n, v in pruning.options}
    return getattr(optuna.pruners, pruning.pruner)(**options)
