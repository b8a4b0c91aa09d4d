"""One trunk: warm up, stay at the plateau, and at each token count branch, cool down and measure.

Several members (seeds, learning rates) of one shape may share a trunk; they then train as one compiled program. Levels
that set in at the cooldown or at the end share a trunk too: each cools down, or is measured, after the other.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kleiber.model.compress.tree import begin, needs_moments
from kleiber.model.config import ModelConfig
from kleiber.parallel import hosts
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.beginning import teacher_weights
from kleiber.train.calibration import calibrate, calibration_steps
from kleiber.train.checkpoints.identity import run_identity
from kleiber.train.checkpoints.saver import Saver
from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.data.batches import TrainBatches, next_indices
from kleiber.train.data.mixture import batches_of
from kleiber.train.data.run_data import RunData
from kleiber.train.evaluate import Evaluation, evaluate
from kleiber.train.levels import Branch, split
from kleiber.train.members import Members
from kleiber.train.placement import anchor_of, initial_state, place_batches, place_params, state_of
from kleiber.train.resume import Run, SavedRuns, Totals
from kleiber.train.state import optimizer_of
from kleiber.train.step import compile_steps
from kleiber.train.update.delayed_sync import common_params
from kleiber.train.update.guard import StepLog
from kleiber.train.update.schedule import cooldown_start, learning_rate_fraction
from kleiber.train.watch.goodput import Goodput
from kleiber.train.watch.metrics import Metrics
from kleiber.train.watch.skip_counts import Diverged, SkipCounts


class Stopped(Exception):
    """Training was asked to stop; everything up to here is in a checkpoint."""


@dataclass(frozen=True)
class Point:
    """One measured point of one config."""

    member: int
    """Its place among the trunk's configs."""
    num_tokens: int
    num_steps: int
    evaluation: Evaluation | None
    """None when the member diverged before this point."""
    reason: str
    train_seconds: float
    """Seconds of training since this trunk (or its last resume) had trained the shared part, this branch included."""
    tokens_per_second: float
    is_kept: bool
    """Whether the weights that were measured are in its final_folder."""
    elsewhere: Mapping[str, Evaluation] = field(default_factory=dict)
    """Of the other corpora that it is measured on."""


@dataclass(frozen=True)
class TrunkIO:
    """How a trunk speaks to the outside. All calls come between those of the compiled steps."""

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
    notes: dict[str, Any] = field(default_factory=dict)
    """What every checkpoint keeps beside the run."""
    final_folder: Callable[[int, int], Path | None] = lambda member, num_tokens: None
    """Where the measured weights of a config at a token count are kept, alike in every process; None keeps none."""
    is_done: Callable[[int, int], bool] = lambda member, num_tokens: False
    """Whether the point of one config has been recorded already, where a stop came between the levels of a point."""
    start: Path | None = None
    """Where the weights lie that its config's start names."""
    teacher: Path | None = None
    """Where those of its config's teacher lie."""


class Trunk:
    """Trains the members of one trunk through all their points, resuming from checkpoints found in the folder."""

    def __init__(self, members: Sequence[TrainConfig], data: RunData, io: TrunkIO):
        """Builds the compiled program and the initial state.

        Args:
          members: configs alike in all but seed, learning rate, weight decay and factors, or in all but what sets in
            at the cooldown or at the end.
          data: from open_run_data.
          io: callbacks and folder.
        """
        plateaus, self.branches = split(members)
        self.configs, self.members, self.io, self.data = list(members), Members(plateaus), io, data
        self.config = config = plateaus[0]
        self.mesh = make_mesh(config.mesh)
        self.initial = initial_state(
            plateaus, optimizer_of(config), self.mesh, io.start, tokenizer_model=data.tokenizer_model
        )
        taught = teacher_weights(config, io.teacher, data.tokenizer_model)
        self.teacher = place_params(config.teacher.shape, self.mesh, taught) if config.teacher else None
        self.anchor = anchor_of(config, self.mesh, io.start, data.tokenizer_model)
        self.hyper = self.members.hyperparameters()
        phases = (config, *(branch.config for branch in self.branches))
        self.steps = {phase: compile_steps(phase, optimizer_of(phase), len(plateaus)) for phase in phases}
        self.is_lead = hosts.is_lead()
        self.metrics = [Metrics(folder / "metrics.jsonl") for folder in io.metrics_folders if self.is_lead]
        self.saver = Saver(
            config.keep_checkpoints,
            run_identity(plateaus),
            config.stops_when_saving_fails,
            config.checks_replicas,
            config.checkpoint_seconds,
        )
        self.saved = SavedRuns(io.folder / "checkpoints", self.saver, self.metrics, io.clock, io.allow, io.notes)
        self.totals = Totals()
        self.compiled: set[TrainConfig] = set()
        self.speed = 0.0

    def run(self) -> None:
        """Trains until every point is measured.

        Raises:
          Stopped: should_stop() became true; a checkpoint holds everything.
          Diverged: every member has.
        """
        with use_mesh(self.mesh):
            try:
                self._run()
            finally:
                self.saver.wait()
                self.io.clock.write()

    def _run(self) -> None:
        points = sorted(self.config.num_tokens)
        if all(self._is_measured(num_tokens) for num_tokens in points):
            return
        trunk = self.saved.take_up("trunk", self._fresh(), self.totals)
        for num_tokens in points:
            total = self.config.steps_at(num_tokens)
            start = cooldown_start(self.config.schedule, total)
            if self._is_measured(num_tokens):
                continue
            if trunk.step > start:  # a record was removed after the trunk had passed its branch: begin again
                trunk = self._fresh()
                self.saved.forget_metrics("trunk", 0)
            self._advance(trunk, start, total, "trunk", self.config)
            # So that a stop in the branch, the last one too, repeats nothing of the trunk.
            self.saved.save("trunk", trunk, self.totals)
            branches = [each for each in self.branches if not self._is_done(each, num_tokens)]
            for branch in branches:
                is_last = num_tokens == points[-1] and branch == branches[-1]
                self._cool_down(trunk if is_last else self._copy(trunk), branch, num_tokens, total)

    def _cool_down(self, run: Run, branch: Branch, num_tokens: int, total: int) -> None:
        """Trains one branch from the plateau to its end and measures it; a diverged level leaves the others be."""
        name = branch.name(num_tokens)
        self._compress(run, branch.config)
        run = self.saved.take_up(name, run, self.totals)
        try:
            self._advance(run, total, total, name, branch.config)
        except Diverged:
            if len(self.branches) == 1:
                raise
        self._measure(run, branch, num_tokens)
        self.saved.remove(name)

    def _compress(self, run: Run, config: TrainConfig) -> None:
        """Puts weights as config has them in the place of the plateau's. Where they are other arrays, the optimizer
        begins anew: what it knew was of those before."""
        before, params, num = self.config.model, run.state.params, len(self.members)
        moments = self._moments(before, config.model, params)
        params = begin(before, config.model, params, self.members.is_population, moments)
        if config.model.ranks() == before.ranks() or config.model.compression.is_none:
            run.state = replace(run.state, params=params)
            return
        begun = state_of(config, optimizer_of(config), self.mesh, params, num)
        run.state = replace(run.state, params=begun.params, opt_state=begun.opt_state)
        run.initial = jax.tree.map(jnp.copy, run.state)

    def _moments(self, before: ModelConfig, model: ModelConfig, params: Any, member: int | None = None) -> Any:
        """Returns the second moments of what matrices read of the first training windows, where a model that goes on
        from another's weights asks for them: of one member, or of all with a leading member axis."""
        if not needs_moments(before, model):
            return None
        config, count = replace(self.config, model=before), calibration_steps(self.config)
        each = [next_indices(config.guard, batches, 0, count) for batches in self._first_batches()]
        if member is None and self.members.is_population:
            batches = place_batches(self.mesh, self._read, np.stack(each), count, True)
            return jax.vmap(lambda params, batches: calibrate(config, params, batches))(params, batches)
        batches = place_batches(self.mesh, self._read, each[member or 0], count, False)
        return calibrate(config, params, batches)

    def _is_done(self, branch: Branch, num_tokens: int) -> bool:
        return bool(hosts.from_lead(int(all(self.io.is_done(place, num_tokens) for place in branch.places))))

    def _is_measured(self, num_tokens: int) -> bool:
        return bool(hosts.from_lead(int(self.io.is_measured(num_tokens))))

    def _fresh(self) -> Run:
        skips = SkipCounts(self.config.guard, len(self.members))
        return Run(jax.tree.map(jnp.copy, self.initial), 0, self._first_batches(), skips, self.initial)

    def _first_batches(self) -> list[TrainBatches]:
        return [batches_of(member, self.data.train) for member in self.members.configs]

    def _copy(self, run: Run) -> Run:
        copied = self._fresh()
        for batches, original in zip(copied.batches, run.batches, strict=True):
            batches.restore(original.state())
        return Run(jax.tree.map(jnp.copy, run.state), run.step, copied.batches, run.skips.copy(), run.initial)

    def _advance(self, run: Run, stop: int, total: int, branch: str, phase: TrainConfig) -> None:
        """Trains run up to step stop under the schedule of a run of total steps; phase is the config in force."""
        config, pending = self.config, None
        last_save = started = time.monotonic()
        while run.step < stop:
            count = min(config.steps_per_call, stop - run.step)
            with self.io.clock.doing("data"):
                batches = self._next_batches(run, count)
            with self.io.clock.doing("steps" if phase in self.compiled else "compile"):
                fractions, seeds = self._fractions(run.step, count, total), self.members.seeds()
                given = (run.state, self.hyper, batches, fractions, seeds, np.int32(count))
                run.state, log = self.steps[phase](*given, teacher=self.teacher, anchor=self.anchor)
            if phase not in self.compiled:  # the first steps are under way, for minutes where the machine is slow
                self.compiled.add(phase)
                self.io.on_progress({"trained_tokens": self.totals.trained_tokens, "tokens_per_second": 0.0})
            self.saver.check()
            finished, pending = pending, (run.step, count, log)
            run.step += count
            if finished:  # the device is busy with the next call while the last one's losses are looked at
                started = self._look(run, finished, branch, total, started)
            if run.step < stop and hosts.any_of(self.io.should_stop()):
                self._look(run, pending, branch, total, started)
                self.saved.save(branch, run, self.totals)
                self.saver.wait()
                hosts.meet("saved")
                raise Stopped(f"stopped and saved at step {run.step} of {total} ({branch})")
            if hosts.from_lead(int(time.monotonic() - last_save > config.checkpoint_seconds)):
                started = self._look(run, pending, branch, total, started)
                pending = None
                self.saved.save(branch, run, self.totals)
                last_save = started = time.monotonic()
        if pending:
            self._look(run, pending, branch, total, started)

    def _fractions(self, first: int, count: int, total: int) -> np.ndarray:
        """Returns the learning rate's fractions of the next steps, float [K] or [members, K], zero past the last."""
        fractions = learning_rate_fraction(self.config.schedule, np.arange(first, first + count), total)
        return self.members.stack([np.pad(fractions, (0, self.config.steps_per_call - count))] * len(self.members))

    def _read(self, indices: np.ndarray) -> Batch:
        return self.data.train.batch(self.config, indices, self.data.newlines)

    def _next_batches(self, run: Run, count: int) -> Batch:
        chosen = [next_indices(self.config.guard, batches, run.step, count) for batches in run.batches]
        size, is_population = self.config.steps_per_call, self.members.is_population
        return place_batches(self.mesh, self._read, self.members.stack(chosen), size, is_population)

    def _look(self, run: Run, call: tuple[int, int, StepLog], branch: str, total: int, started: float) -> float:
        """Fetches one call's losses, records them, and notices divergence. Returns the time it was done."""
        first, count, device_log = call
        with self.io.clock.doing("steps"):
            log = jax.tree.map(np.asarray, device_log)
        now = time.monotonic()
        self.io.clock.call_done(now - started)
        tokens_per_step, totals = self.config.tokens_per_step, self.totals
        totals.seconds += now - started
        totals.trained_tokens += count * tokens_per_step
        self.speed = count * tokens_per_step * len(self.members) / max(now - started, 1e-9)
        rows = run.skips.look(first, log, count)
        if first == 0:
            totals.first_loss = np.atleast_2d(log.losses)[:, 0].astype(np.float64)
        if first >= self.config.schedule.warmup_steps:
            run.skips.check_losses(rows, totals.first_loss, self.config.model.vocab_size, first + count)
        rate = float(learning_rate_fraction(self.config.schedule, np.array([first + count - 1]), total)[0])
        shared = {
            "step": first + count,
            "num_tokens": (first + count) * tokens_per_step,
            "learning_rate_fraction": rate,
            "tokens_per_second": self.speed / len(self.members),
            "segment": branch,
        }
        for metrics, row in zip(self.metrics, rows, strict=self.is_lead):
            metrics.append({**shared, **row})
        known = {"total_steps": total, "trained_tokens": totals.trained_tokens, "loss": rows[0]["loss"]}
        self.io.on_progress({**shared, **known})
        if all(run.skips.reasons):
            raise Diverged(f"{run.skips.reasons[0]} ({branch})")
        return now

    def _measure(self, run: Run, branch: Branch, num_tokens: int) -> None:
        for place in branch.places:
            index = place if self.members.is_population else 0
            config, evaluation, reason, is_kept = self.configs[place], None, run.skips.reasons[index], False
            others: dict[str, Evaluation] = {}
            if not reason:
                params, outer = self.members.member((run.state.params, run.state.outer), index)
                if delayed := self.config.delayed_sync:
                    params = common_params(delayed, params, outer, run.step)
                before = branch.config.model
                moments = self._moments(before, config.model, params, index)
                params = begin(before, config.model, params, moments=moments)
                with self.io.clock.doing("evaluate"):
                    evaluation, reason = evaluate(config, params, self.data), ""
                    others = {name: evaluate(config, params, data) for name, data in self.data.elsewhere.items()}
                if not np.isfinite(evaluation.loss):
                    evaluation, reason = None, "validation loss is not finite"
                elif folder := self.io.final_folder(place, num_tokens):
                    is_kept = self._keep(folder, run.step, params, config)
            if self.is_lead:
                seconds, speed = self.totals.seconds, self.speed
                told = (evaluation, reason, seconds, speed, is_kept, others if evaluation else {})
                self.io.on_point(Point(place, num_tokens, run.step, *told))

    def _keep(self, folder: Path, step: int, params: Any, member: TrainConfig) -> bool:
        """Keeps what was measured, and with it the model of its tokenizer, so that it can be used by itself."""
        kept = {"params": params}
        if self.data.tokenizer_model:
            kept["tokenizer_model"] = np.frombuffer(self.data.tokenizer_model, np.uint8)
        with self.io.clock.doing("save"):
            return self.saver.save_final(folder, step, kept, run_identity([member]))
