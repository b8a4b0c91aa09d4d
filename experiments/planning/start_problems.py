"""What of an experiment's starts, and of the weights that are to move, will not work, told before anything is spent."""

from pathlib import Path

from kleiber.experiments.config_file import from_data
from kleiber.experiments.experiment import Experiment
from kleiber.files import read_json
from kleiber.train.config import TrainConfig
from kleiber.train.start import difference, kept_weights_of, weights_digest


def start_problems(experiment: Experiment) -> list[str]:
    """Returns why trunks could not begin with the weights they name, or train those they name."""
    configs = [*experiment.starts, *experiment.trunks, *(target.train for target in experiment.targets)]
    return list(dict.fromkeys(found for config in configs if (found := _problem(config))))


def _problem(config: TrainConfig) -> str:
    try:
        if config.start is None and config.model.adapter is not None:
            return "model.adapter without start: it stands beside weights that stay, and these are drawn ones"
        if config.start and config.start.run:
            _check_run(config, Path(config.start.run), config.start.digest)
        if config.optimizer.groups:
            from kleiber.model.selection import select

            for word, _ in config.optimizer.groups:
                select(config.model, word)
    except ValueError as problem:
        return str(problem).rstrip(".")
    return ""


def _check_run(config: TrainConfig, run: Path, digest: str) -> None:
    found = weights_digest(kept_weights_of(run))
    if found != digest:
        raise ValueError(f"start.run {run} holds other weights than this config was made for ({found}, not {digest})")
    if problem := difference(from_data(TrainConfig, read_json(run / "config.json")["trunk"]), config):
        raise ValueError(f"the start {run} has {problem}")
