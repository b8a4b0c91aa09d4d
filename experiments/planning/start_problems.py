"""What of an experiment's starts and teachers, and of the weights that are to move, will not work, told before anything
is spent."""

from pathlib import Path

from kleiber.experiments.config_file import from_data
from kleiber.experiments.experiment import Experiment
from kleiber.files import read_json
from kleiber.train.config import FinishedRun, TrainConfig
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
            _check_run(config.start)
            trunk = read_json(Path(config.start.run) / "config.json")["trunk"]
            if problem := difference(from_data(TrainConfig, trunk), config):
                return f"the start {config.start.run} has {problem}"
        if config.teacher and config.teacher.run:
            _check_run(config.teacher)
        if config.optimizer.groups:
            from kleiber.model.selection import select

            for word, _ in config.optimizer.groups:
                select(config.model, word)
    except ValueError as problem:
        return str(problem).rstrip(".")
    return ""


def _check_run(source: FinishedRun) -> None:
    found = weights_digest(kept_weights_of(source.run or "", source.called))
    if found != source.digest:
        what = f"{source.called}.run {source.run}"
        raise ValueError(f"{what} holds other weights than this config was made for ({found}, not {source.digest})")
