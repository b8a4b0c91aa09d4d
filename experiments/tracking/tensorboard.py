"""TensorBoard: event files in DIR/tensorboard, a folder a run; `tensorboard --logdir DIR` shows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams


class TensorBoard:
    """Writes event files through tensorboardX; a later launch adds files beside those there are."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writers: dict[str, SummaryWriter] = {}

    def begin(self, run: str, config: Mapping[str, Any]) -> None:
        """Opens an event file of the run, with its settings as hyper-parameters."""
        self.writers[run] = writer = SummaryWriter(str(self.folder / run))
        for summary in hparams(dict(config), {"validation_loss": 0.0}):
            writer.file_writer.add_summary(summary)

    def log(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a scalar for each value."""
        for name, value in values.items():
            self.writers[run].add_scalar(name, value, step)

    def end(self, run: str) -> None:
        """Closes its file."""
        if run in self.writers:
            self.writers.pop(run).close()

    def close(self) -> None:
        """Closes all."""
        for run in list(self.writers):
            self.end(run)


def open_here(directory: Path) -> TensorBoard:
    """Returns the tracker of a sweep's directory."""
    return TensorBoard(directory / "tensorboard")
