"""Saving beside the training: the state is copied to the host, and a thread writes it while the device goes on.

It does so only while that costs nothing: a save that takes more than a fiftieth of the time between two is waited for,
so that a kill never takes more than the training since the last save began. A save counts only once `wait` or `check`
has seen it end well. A failed one is raised at the next step edge, so a run never goes on believing in a checkpoint
that does not exist.
"""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kleiber.train.checkpoints import checkpoint
from kleiber.train.checkpoints.replicas import check_replicas

WAITED_FRACTION = 0.02
log = logging.getLogger(__name__)


class Saver:
    """Writes one checkpoint at a time in the background."""

    def __init__(
        self,
        keep: int,
        identity: dict[str, Any],
        stops_on_failure: bool = True,
        checks_replicas: bool = False,
        interval_seconds: float = 0.0,
    ):
        """Makes a saver.

        Args:
          keep: checkpoints to keep in each folder.
          identity: of the run, written into each.
          stops_on_failure: False goes on training with a warning when a checkpoint cannot be written.
          checks_replicas: compare the copies of each array on several devices before it is saved.
          interval_seconds: between two saves.
        """
        self.interval_seconds, self._seconds = interval_seconds, float("inf")
        self.keep, self.identity, self.stops_on_failure = keep, identity, stops_on_failure
        self.checks_replicas = checks_replicas
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kleiber-save")
        self._pending: Future | None = None
        self.durable: dict[Path, int] = {}
        """The newest step of each folder that is on the disk, digests and all."""

    def start(self, folder: Path, step: int, state: Any, extra: dict[str, Any]) -> None:
        """Copies the state and begins to write it, after the save before has ended.

        Raises:
          CannotSave: the save before failed.
          NotFinite: the state holds a NaN or an infinity; nothing is written.
          SilentCorruption: copies of an array differ between devices; nothing is written.
        """
        self.wait()
        if self.checks_replicas:
            check_replicas(state, step)
        arrays = {name: host_copy(leaf) for name, leaf in checkpoint.named_leaves(state).items()}
        checkpoint.check_finite(arrays, f"the state of step {step}")
        if jax.process_index() == 0:
            self._pending = self._pool.submit(self._save, folder, step, arrays, extra)
            if self._seconds > WAITED_FRACTION * self.interval_seconds:
                self.wait()

    def save_final(self, folder: Path, step: int, state: Any, identity: dict[str, Any]) -> bool:
        """Writes the one checkpoint of a folder that stays, beside those of the run; returns whether it is durable.

        Raises:
          CannotSave: it failed, and failing stops the run.
        """
        self.wait()
        arrays = {name: host_copy(leaf) for name, leaf in checkpoint.named_leaves(state).items()}
        if jax.process_index() == 0:
            self._pending = self._pool.submit(checkpoint.save, folder, step, arrays, {}, 1, identity)
            self.wait()
        return step in checkpoint.steps(folder)

    def _save(self, folder: Path, step: int, arrays: dict[str, np.ndarray], extra: dict[str, Any]) -> None:
        began = time.monotonic()
        checkpoint.save(folder, step, arrays, extra, self.keep, self.identity)
        self._seconds = time.monotonic() - began
        self.durable[folder] = step

    def check(self) -> None:
        """Raises what a save that has ended in the meantime failed with. Costs nothing while it runs."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the save under way is durable.

        Raises:
          CannotSave: it failed.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except checkpoint.CannotSave as problem:
            if self.stops_on_failure:
                raise
            log.warning("%s Training goes on without it, as asked.", problem)


def host_copy(leaf: Any) -> np.ndarray:
    """Returns an array of any kind as a host array of its own, gathered from every process that holds a part."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        from jax.experimental.multihost_utils import process_allgather

        return np.asarray(process_allgather(leaf, tiled=True))
    return np.array(leaf, copy=True)  # the buffer itself is given to the next call
