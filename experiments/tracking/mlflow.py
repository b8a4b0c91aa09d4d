"""MLflow: the database DIR/mlflow.db, or the store that MLFLOW_TRACKING_URI names; DIR's name is the experiment."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param


class MLflow:
    """Keeps a run of MLflow for each that has begun."""

    def __init__(self, directory: Path):
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{directory.absolute() / 'mlflow.db'}")
        self.client = MlflowClient(uri)
        known = self.client.get_experiment_by_name(directory.absolute().name)
        self.experiment = known.experiment_id if known else self.client.create_experiment(directory.absolute().name)
        self.ids: dict[str, str] = {}

    def begin(self, run: str, config: Mapping[str, Any]) -> None:
        """Begins a run, or goes on with the one of this name."""
        named = self.client.search_runs([self.experiment], f"tags.mlflow.runName = '{run}'", max_results=1)
        self.ids[run] = (named or [self.client.create_run(self.experiment, run_name=run)])[0].info.run_id
        if not named:
            params = [Param(name, str(value)) for name, value in config.items()]
            self.client.log_batch(self.ids[run], params=params[:100])

    def log(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of a step."""
        self.client.log_batch(self.ids[run], [Metric(name, value, 0, step) for name, value in values.items()])

    def end(self, run: str) -> None:
        """Marks a run as finished."""
        if run in self.ids:
            self.client.set_terminated(self.ids.pop(run))

    def close(self) -> None:
        """Leaves what has not ended as running: a later launch goes on with it."""


def open_here(directory: Path) -> MLflow:
    """Returns the tracker of a sweep's directory."""
    return MLflow(directory)
