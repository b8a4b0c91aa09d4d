"""One trunk: warm up, stay at the plateau, and at each token count branch, cool down and measure.

Several members (seeds, learning rates) of one shape may share a trunk; they then train as one compiled program.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.functional import abstract_params
from kleiber.parallel import hosts
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.parallel.rules import place
from kleiber.train.checkpoints import checkpoint
from kleiber.train.checkpoints.identity import run_identity
from kleiber.train.checkpoints.saver import Saver
from kleiber.train.config import TrainConfig
from kleiber.train.data.batches import TrainBatches
from kleiber.train.data.run_data import RunData
from kleiber.train.evaluate import Evaluation, evaluate
from kleiber.train.placement import initial_state, place_batches
from kleiber.train.step import Hyperparameters, TrainState, make_block
from kleiber.train.update.delayed_sync import common_params
from kleiber.train.update.guard import SkipCounts, StepLog, next_indices
from kleiber.train.update.optimizer import make_optimizer
from kleiber.train.update.schedule import cooldown_start, learning_rate_fraction
from kleiber.train.watch.goodput import Goodput
from kleiber.train.watch.metrics import Metrics

DIVERGED_FACTOR = 1.5
"""A member has diverged when its training loss after warm-up exceeds this multiple of its first step's loss."""


class Stopped(Exception):
    """Training was asked to stop; everything up to here is in a checkpoint."""


class Diverged(Exception):
    """Every member's loss is not finite, or far above where it started."""


@dataclass(frozen=True)
class Point:
    """One measured point of one member."""

    member: int
    num_tokens: int
    num_steps: int
    evaluation: Evaluation | None
    """None when the member diverged before this point."""
    reason: str
    train_seconds: float
    """Seconds of training since this trunk (or its last resume) had trained the shared part, this branch included."""
    tokens_per_second: float


@dataclass(frozen=True)
class TrunkIO:
    """How a trunk speaks to the outside. All calls come between compiled blocks."""

    folder: Path
    """Holds checkpoints/."""
    metrics_folders: Sequence[Path]
    """Where the metrics.jsonl of each member goes."""
    on_point: Callable[[Point], None]
    is_measured: Callable[[int], bool]
    """Whether the point at this token count has been recorded already."""
    on_progress: Callable[[dict[str, Any]], None] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False
    clock: Goodput = field(default_factory=Goodput)
    allow: tuple[str, ...] = ()
    """Fields in which a checkpoint may differ from the config that resumes it."""


@dataclass
class _Run:
    """The mutable part of a trunk or of one of its branches."""

    state: TrainState
    step: int
    batches: list[TrainBatches]
    skips: SkipCounts


class Trunk:
    """Trains the members of one trunk through all their points, resuming from checkpoints found in the folder."""

    def __init__(self, members: Sequence[TrainConfig], data: RunData, io: TrunkIO):
        """Builds the compiled program and the initial state.

        Args:
          members: configs alike in all but seed, learning rate, weight decay and factors.
          data: from open_run_data.
          io: callbacks and folder.
        """
        self.members, self.config, self.io, self.data = list(members), members[0], io, data
        for member in members:
            same = replace(member, seed=self.config.seed, optimizer=self.config.optimizer, factors=self.config.factors)
            if same != self.config:
                raise ValueError("members of one trunk may differ only in seed, optimizer constants and factors.")
        self.is_population = len(self.members) > 1
        self.mesh = make_mesh(self.config.mesh)
        self.optimizer = make_optimizer(self.config.optimizer, self.config.model, abstract_params(self.config.model))
        self.initial = initial_state(self.members, self.optimizer, self.mesh)
        self.shardings = jax.tree.map(lambda array: array.sharding, self.initial)
        self.hyper = self._stack(
            [
                Hyperparameters(jnp.float32(m.optimizer.learning_rate), jnp.float32(m.optimizer.weight_decay))
                for m in members
            ]
        )
        self.block = make_block(self.config, self.optimizer, len(self.members))
        self.is_lead = hosts.is_lead()
        folders = io.metrics_folders if self.is_lead else ()
        self.metrics = [Metrics(folder / "metrics.jsonl") for folder in folders]
        config = self.config
        self.saver = Saver(
            config.keep_checkpoints,
            run_identity(self.members),
            config.stops_when_saving_fails,
            config.checks_replicas,
            config.checkpoint_seconds,
        )
        self.is_compiled = False
        self.first_loss: np.ndarray | None = None
        self.seconds = 0.0
        self.speed = 0.0
        self.trained_tokens = 0

    def run(self) -> None:
        """Trains until every point is measured.

        Raises:
          Stopped: should_stop() became true; a checkpoint holds everything.
        """
        with use_mesh(self.mesh):
            try:
                self._run()
            finally:
                self.saver.wait()
                self.io.clock.write()

    def _run(self) -> None:
        branches = sorted(self.config.num_tokens)
        if all(self._is_measured(num_tokens) for num_tokens in branches):
            return
        trunk = self._resume("trunk", self._fresh())
        for num_tokens in branches:
            total = self.config.steps_at(num_tokens)
            start = cooldown_start(self.config.schedule, total)
            if self._is_measured(num_tokens):
                continue
            if trunk.step > start:  # a record was removed after the trunk had passed its branch: begin again
                trunk = self._fresh()
            self._advance(trunk, start, total, "trunk")
            is_last = num_tokens == branches[-1]
            self._save(trunk, "trunk")  # so that a stop in the branch, the last one too, repeats nothing of the trunk
            branch = self._resume(f"branch_{num_tokens}", trunk if is_last else self._copy(trunk))
            self._advance(branch, total, total, f"branch_{num_tokens}")
            self._measure(branch, num_tokens)

    def _is_measured(self, num_tokens: int) -> bool:
        return bool(hosts.from_lead(int(self.io.is_measured(num_tokens))))

    def _fresh(self) -> _Run:
        batches = [
            TrainBatches(self.data.train, m.batch_size, m.seed, m.data.num_unique_tokens, m.data.max_epochs)
            for m in self.members
        ]
        return _Run(jax.tree.map(jnp.copy, self.initial), 0, batches, SkipCounts(self.config.guard, len(self.members)))

    def _copy(self, run: _Run) -> _Run:
        copied = self._fresh()
        for batches, original in zip(copied.batches, run.batches, strict=True):
            batches.restore(original.state())
        return _Run(jax.tree.map(jnp.copy, run.state), run.step, copied.batches, run.skips.copy())

    def _advance(self, run: _Run, stop: int, total: int, name: str) -> None:
        """Trains run up to step stop under the schedule of a run of total steps."""
        config, last_save = self.config, time.monotonic()
        pending: tuple[int, int, StepLog] | None = None
        started = time.monotonic()
        while run.step < stop:
            count = min(config.steps_per_call, stop - run.step)
            fractions = learning_rate_fraction(config.schedule, np.arange(run.step, run.step + count), total)
            with self.io.clock.doing("data"):
                tokens, segments = self._next_block(run, count)
            with self.io.clock.doing("steps" if self.is_compiled else "compile"):
                run.state, log = self.block(
                    run.state,
                    self.hyper,
                    tokens,
                    segments,
                    self._shared(_pad(fractions, config.steps_per_call)),
                    self._seeds(),
                    np.int32(count),
                )
            if not self.is_compiled:  # the first steps are under way, for minutes where the machine is slow
                self.is_compiled = True
                self.io.on_progress({"trained_tokens": self.trained_tokens, "tokens_per_second": 0.0})
            self.saver.check()
            finished, pending = pending, (run.step, count, log)
            run.step += count
            if finished:  # the device is busy with the next block while the last one's losses are looked at
                started = self._look(run, finished, name, total, started)
            if run.step < stop and hosts.any_of(self.io.should_stop()):
                self._look(run, pending, name, total, started)
                self._save(run, name)
                self.saver.wait()
                hosts.meet("saved")
                raise Stopped(f"stopped and saved at step {run.step} of {total} ({name})")
            if hosts.from_lead(int(time.monotonic() - last_save > config.checkpoint_seconds)):
                started = self._look(run, pending, name, total, started)
                pending = None
                self._save(run, name)
                last_save = started = time.monotonic()
        if pending:
            self._look(run, pending, name, total, started)

    def _next_block(self, run: _Run, count: int) -> tuple[np.ndarray, Any]:
        size, source = self.config.steps_per_call, self.data.train
        indices = [next_indices(self.config.guard, batches, run.step, count) for batches in run.batches]
        chosen = np.stack(indices) if self.is_population else indices[0]
        placed = functools.partial(
            place_batches, self.mesh, indices=chosen, num_steps=size, is_population=self.is_population
        )
        return placed(source.windows), placed(source.segment_ids) if self.config.data.document_attention else None

    def _look(self, run: _Run, block: tuple[int, int, StepLog], name: str, total: int, started: float) -> float:
        """Fetches one block's losses, records them, and notices divergence. Returns the time it was done."""
        first, count, device_log = block
        with self.io.clock.doing("steps"):
            log = jax.tree.map(np.asarray, device_log)
        now = time.monotonic()
        self.io.clock.block_done(now - started)
        tokens_per_step = self.config.tokens_per_step
        self.seconds += now - started
        self.trained_tokens += count * tokens_per_step
        self.speed = count * tokens_per_step * len(self.members) / max(now - started, 1e-9)
        rows = run.skips.look(first, log, count)
        if first == 0:
            self.first_loss = np.atleast_2d(log.losses)[:, 0].astype(np.float64)
        if first >= self.config.schedule.warmup_steps:
            start = np.full(len(rows), np.log(self.config.model.vocab_size))
            if self.first_loss is not None:
                start = np.where(np.isfinite(self.first_loss), self.first_loss, start)
            run.skips.check_losses(rows, DIVERGED_FACTOR * start, first + count)
        rate = float(learning_rate_fraction(self.config.schedule, np.array([first + count - 1]), total)[0])
        shared = {
            "step": first + count,
            "num_tokens": (first + count) * tokens_per_step,
            "learning_rate_fraction": rate,
            "tokens_per_second": self.speed / len(self.members),
            "segment": name,
        }
        for metrics, row in zip(self.metrics, rows, strict=self.is_lead):
            metrics.append({**shared, **row})
        known = {"total_steps": total, "trained_tokens": self.trained_tokens, "loss": rows[0]["loss"]}
        self.io.on_progress({**shared, **known})
        if all(run.skips.reasons):
            raise Diverged(f"{run.skips.reasons[0]} ({name})")
        return now

    def _measure(self, run: _Run, num_tokens: int) -> None:
        for index, member in enumerate(self.members):
            evaluation, reason = None, run.skips.reasons[index]
            if not reason:
                params = self._measured_params(run, index)
                with self.io.clock.doing("evaluate"):
                    evaluation, reason = evaluate(member, params, self.data), ""
                if not np.isfinite(evaluation.loss):
                    evaluation, reason = None, "validation loss is not finite"
            if self.is_lead:
                self.io.on_point(Point(index, num_tokens, run.step, evaluation, reason, self.seconds, self.speed))
        self.saver.wait()
        if self.is_lead:
            checkpoint.remove(self._folder(f"branch_{num_tokens}"))

    def _measured_params(self, run: _Run, index: int) -> Any:
        delayed = self.config.delayed_sync
        params, outer = self._member((run.state.params, run.state.outer), index)
        return params if delayed is None else common_params(delayed, params, outer, run.step)

    def _folder(self, name: str) -> Path:
        return self.io.folder / "checkpoints" / name

    def _save(self, run: _Run, name: str) -> None:
        extra = {
            "data": [batches.state() for batches in run.batches],
            "first_loss": None if self.first_loss is None else self.first_loss.tolist(),
            "skips": run.skips.state(),
            "seconds": self.seconds,
            "trained_tokens": self.trained_tokens,
        }
        with self.io.clock.doing("save"):
            for metrics in self.metrics:
                metrics.sync()
            try:
                self.saver.start(self._folder(name), run.step, run.state, extra)
            except checkpoint.NotFinite as problem:
                if all(not reason for reason in run.skips.reasons):
                    raise Diverged(f"{problem}; the checkpoint before is kept ({name})") from None
                self.saver.start(self._folder(name), run.step, self._without_diverged(run), extra)

    def _without_diverged(self, run: _Run) -> Any:
        """Returns the state with the initial values in place of members that have stopped: no NaN is ever saved."""
        stopped = np.array([bool(reason) for reason in run.skips.reasons])

        def chosen(leaf: Any, initial: Any) -> np.ndarray:
            return np.where(stopped.reshape(-1, *[1] * (np.ndim(leaf) - 1)), np.asarray(initial), np.asarray(leaf))

        return jax.tree.map(chosen, run.state, self.initial)

    def _resume(self, name: str, run: _Run) -> _Run:
        """Returns the newest checkpoint of name if it is ahead of run, else run."""
        like = jax.eval_shape(lambda: self.initial)
        saved = self._newest(name, like)
        if saved is None or saved.step <= run.step:
            self._forget_metrics(name, run.step)
            return run
        for batches, position in zip(run.batches, saved.extra["data"], strict=True):
            batches.restore(position)
        self.first_loss = None if saved.extra["first_loss"] is None else np.array(saved.extra["first_loss"])
        run.skips.restore(saved.extra)
        self.seconds = saved.extra["seconds"]
        self.trained_tokens = saved.extra["trained_tokens"]
        self._forget_metrics(name, saved.step)
        return _Run(place(saved.state, self.shardings), saved.step, run.batches, run.skips)

    def _newest(self, name: str, like: Any) -> checkpoint.Checkpoint | None:
        """Returns the newest sound checkpoint; the lead looks, and the other processes read the one it found."""
        folder, identity, allow = self._folder(name), self.saver.identity, self.io.allow
        saved = checkpoint.restore_newest(folder, like, identity, allow) if self.is_lead else None
        step = hosts.from_lead(-1 if saved is None else saved.step)
        return saved if self.is_lead or step < 0 else checkpoint.restore(folder, step, like, identity, allow)

    def _forget_metrics(self, name: str, step: int) -> None:
        lost = [metrics.truncate(name, step) for metrics in self.metrics]
        self.io.clock.lost(max(lost, default=0))

    def _stack(self, trees: list[Any]) -> Any:
        if not self.is_population:
            return trees[0]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)

    def _member(self, tree: Any, index: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[index], tree) if self.is_population else tree

    def _shared(self, array: np.ndarray) -> np.ndarray:
        return np.stack([array] * len(self.members)) if self.is_population else array

    def _seeds(self) -> np.ndarray:
        seeds = np.array([member.seed for member in self.members], np.uint32)
        return seeds if self.is_population else seeds[0]


def _pad(array: np.ndarray, length: int) -> np.ndarray:
    """Returns array with its first axis grown to length by repeating nothing but zeros."""
    missing = length - len(array)
    return array if not missing else np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
