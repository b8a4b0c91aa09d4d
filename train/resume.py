"""Saving a trunk and its branches, and taking them up again where they were left."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kleiber.parallel import hosts
from kleiber.parallel.rules import place
from kleiber.train.checkpoints import checkpoint
from kleiber.train.checkpoints.saver import Saver
from kleiber.train.data.batches import TrainBatches
from kleiber.train.state import TrainState
from kleiber.train.watch.goodput import Goodput
from kleiber.train.watch.metrics import Metrics
from kleiber.train.watch.skip_counts import Diverged, SkipCounts


@dataclass
class Run:
    """The mutable part of a trunk or of one of its branches."""

    state: TrainState
    step: int
    batches: list[TrainBatches]
    skips: SkipCounts
    initial: TrainState
    """A state like its own, each array where it lies: what stands for members that have stopped."""


@dataclass
class Totals:
    """What a trunk and its branches count together."""

    first_loss: np.ndarray | None = None
    """float64 [members], nats per token of the first step."""
    seconds: float = 0.0
    """Of training."""
    trained_tokens: int = 0
    """By each member."""


@dataclass(frozen=True)
class SavedRuns:
    """Where the runs of one trunk are saved and found; `branch` is "trunk", or "branch_" and its tokens."""

    folder: Path
    """Holds a folder of checkpoints a branch."""
    saver: Saver
    metrics: Sequence[Metrics]
    """Of each member; empty but in the lead process."""
    clock: Goodput
    allow: tuple[str, ...]
    """Fields in which a checkpoint may differ from the config that resumes it."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What every checkpoint keeps beside the run."""

    def save(self, branch: str, run: Run, totals: Totals) -> None:
        """Begins to write a checkpoint.

        Raises:
          Diverged: the state of a member that trains is not finite; the checkpoint before is kept.
        """
        extra = {
            **self.notes,
            "data": [batches.state() for batches in run.batches],
            "first_loss": None if totals.first_loss is None else totals.first_loss.tolist(),
            "skips": run.skips.state(),
            "seconds": totals.seconds,
            "trained_tokens": totals.trained_tokens,
        }
        with self.clock.doing("save"):
            for metrics in self.metrics:
                metrics.sync()
            try:
                self.saver.start(self.folder / branch, run.step, run.state, extra)
            except checkpoint.NotFinite as problem:
                if all(not reason for reason in run.skips.reasons):
                    raise Diverged(f"{problem}; the checkpoint before is kept ({branch})") from None
                self.saver.start(self.folder / branch, run.step, self._without_diverged(run), extra)

    def _without_diverged(self, run: Run) -> Any:
        """Returns the state with the initial values in place of members that have stopped: no NaN is ever saved."""
        stopped = np.array([bool(reason) for reason in run.skips.reasons])

        def chosen(leaf: Any, initial: Any) -> np.ndarray:
            return np.where(stopped.reshape(-1, *[1] * (np.ndim(leaf) - 1)), np.asarray(initial), np.asarray(leaf))

        return jax.tree.map(chosen, run.state, run.initial)

    def take_up(self, branch: str, run: Run, totals: Totals) -> Run:
        """Returns the newest checkpoint of a branch if it is ahead of run, and sets totals to it; else run."""
        saved = self._newest(self.folder / branch, run.initial)
        if saved is None or saved.step <= run.step:
            self.forget_metrics(branch, run.step)
            return run
        for batches, position in zip(run.batches, saved.extra["data"], strict=True):
            batches.restore(position)
        totals.first_loss = None if saved.extra["first_loss"] is None else np.array(saved.extra["first_loss"])
        totals.seconds, totals.trained_tokens = saved.extra["seconds"], saved.extra["trained_tokens"]
        run.skips.restore(saved.extra)
        self.forget_metrics(branch, saved.step)
        shardings = jax.tree.map(lambda array: array.sharding, run.initial)
        return Run(place(saved.state, shardings), saved.step, run.batches, run.skips, run.initial)

    def _newest(self, folder: Path, initial: TrainState) -> checkpoint.Checkpoint | None:
        """Returns the newest sound checkpoint; the lead looks, and the other processes read the one it found."""
        like, identity = jax.eval_shape(lambda: initial), self.saver.identity
        saved = checkpoint.restore_newest(folder, like, identity, self.allow) if hosts.is_lead() else None
        step = hosts.from_lead(-1 if saved is None else saved.step)
        return saved if hosts.is_lead() or step < 0 else checkpoint.restore(folder, step, like, identity, self.allow)

    def forget_metrics(self, branch: str, step: int) -> None:
        """Removes what the logs hold of a branch beyond a step: it is trained again from there."""
        lost = [metrics.truncate(branch, step) for metrics in self.metrics]
        self.clock.lost(max(lost, default=0))

    def remove(self, branch: str) -> None:
        """Removes the checkpoints of a branch that is measured."""
        self.saver.wait()
        if hosts.is_lead():
            checkpoint.remove(self.folder / branch)
