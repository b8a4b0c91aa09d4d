"""Weights & Biases: offline logs in DIR/wandb for `wandb sync`, or what WANDB_MODE says; DIR's name is the project."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb


class WeightsAndBiases:
    """Keeps a run of W&B for each that has begun."""

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        self.runs: dict[str, Any] = {}

    def begin(self, run: str, config: Mapping[str, Any]) -> None:
        """Begins a run, or goes on with the one of this directory and name."""
        self.runs[run] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", self.directory.name),
            name=run,
            id=hashlib.sha256(f"{self.directory} {run}".encode()).hexdigest()[:12],
            config=dict(config),
            dir=str(self.directory),
            mode=os.environ.get("WANDB_MODE", "offline"),  # no network unless it was asked for
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of a step."""
        self.runs[run].log(dict(values), step=step)

    def end(self, run: str) -> None:
        """Finishes a run."""
        if run in self.runs:
            self.runs.pop(run).finish()

    def close(self) -> None:
        """Finishes all."""
        for run in list(self.runs):
            self.end(run)


def open_here(directory: Path) -> WeightsAndBiases:
    """Returns the tracker of a sweep's directory."""
    return WeightsAndBiases(directory)
