"""Tuning in Python: read a recipe off sweeps, and apply one where an experiment is written."""

from pathlib import Path

from kleiber.experiments.answers.tuning import Tuning, tuning_of
from kleiber.experiments.api.runs import results
from kleiber.experiments.config_file import from_data
from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import trunk_cells
from kleiber.files import read_json
from kleiber.train.recipe import Quantity, Recipe

__all__ = ["Recipe", "tune"]


def tune(*directories: str | Path, quantity: Quantity = "learning_rate") -> Tuning:
    """Returns how the best level of a quantity follows batch, tokens, width and layers; `.recipe` is the rule.

    Args:
      *directories: of sweeps that vary it at three levels or more beside what it may follow.
      quantity: learning_rate, weight_decay, epsilon or beta2.

    Raises:
      FileNotFoundError: a directory is none of a sweep.
      ValueError: it does not vary there, or has no best level between two worse ones.
    """
    if not directories:
        raise ValueError("no directory of a sweep given; name one or more, such as out/lr_batch.")
    studies = []
    for directory in map(Path, directories):
        found = results(directory)
        experiment = from_data(Experiment, read_json(directory / "experiment.json"))
        configs = {cell.trunk_id: cell.config for cell in trunk_cells(experiment, "fit")}
        studies.append((found.answers.study, configs))
    return tuning_of(studies, quantity)
