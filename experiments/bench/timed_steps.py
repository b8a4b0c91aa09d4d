"""kleiber's own compiled steps on tokens of no meaning: what `kleiber train` runs, and nothing around it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kleiber.experiments.bench.interleave import seconds_of
from kleiber.experiments.compilation.step import step_arguments
from kleiber.experiments.config_file import from_data
from kleiber.parallel.mesh import make_mesh, use_mesh
from kleiber.train.config import TrainConfig
from kleiber.train.data.batch import Batch
from kleiber.train.placement import initial_state, place_batches
from kleiber.train.state import Hyperparameters, optimizer_of
from kleiber.train.step import compile_steps


class TimedSteps:
    """One model, or a population, and its compiled steps."""

    def __init__(self, config: TrainConfig, num_members: int = 1):
        """Traces and compiles config.steps_per_call steps of models that differ in seed; makes no array yet."""
        self.config, self.num_members = config, num_members
        self.mesh = make_mesh(config.mesh)
        self.optimizer = optimizer_of(config)
        start = time.perf_counter()
        with use_mesh(self.mesh):
            arguments = step_arguments(config, self.optimizer, self.mesh, num_members)
            lowered = compile_steps(config, self.optimizer, num_members).lower(*arguments)
            between = time.perf_counter()
            self.compiled = lowered.compile()
        self.trace_seconds, self.compile_seconds = between - start, time.perf_counter() - between
        self.state: Any = None
        self.host_seconds = 0.0
        """Of the last call: reading its tokens and handing it to the device."""

    @property
    def tokens_per_call(self) -> int:
        """Training tokens of one call, over all members."""
        return self.config.steps_per_call * self.config.tokens_per_step * self.num_members

    def start(self) -> None:
        """Makes the initial state and the tokens."""
        config, steps = self.config, self.config.steps_per_call
        members = [dataclasses.replace(config, seed=seed) for seed in range(self.num_members)]
        with use_mesh(self.mesh):
            self.state = initial_state(members, self.optimizer, self.mesh)
        self.windows = random_windows(config)
        self.indices = self._each_member(np.arange(len(self.windows)).reshape(steps, config.batch_size))
        rate, decay = (self._each_member(np.float32(v)) for v in (config.optimizer.learning_rate, 0.1))
        self.arguments = (
            self._each_member(np.ones(steps, np.float32)),
            np.arange(self.num_members, dtype=np.uint32) if self.num_members > 1 else np.uint32(0),
            np.int32(steps),
        )
        self.hyper = Hyperparameters(rate, decay)

    def train(self) -> np.ndarray:
        """Trains one call, waits for it, and returns its losses, float32 [K] or [members, K]."""
        if self.state is None:
            self.start()
        start = time.perf_counter()
        with use_mesh(self.mesh):
            steps, is_population = self.config.steps_per_call, self.num_members > 1
            batches = place_batches(self.mesh, lambda i: Batch(self.windows[i]), self.indices, steps, is_population)
            self.state, log = self.compiled(self.state, self.hyper, batches, *self.arguments)
            self.host_seconds = time.perf_counter() - start
            return np.asarray(log.losses)

    def _each_member(self, value: Any) -> Any:
        return np.stack([value] * self.num_members) if self.num_members > 1 else value


def random_windows(config: TrainConfig) -> np.ndarray:
    """Returns the windows of one call, int32 [K B, T + 1] as TokenSource.windows gives: random, so that nothing is left
    to learn and the time of a step never depends on it."""
    shape = (config.steps_per_call * config.batch_size, config.model.seq_len + 1)
    return np.random.default_rng(0).integers(0, config.model.vocab_size, shape, dtype=np.int32)


def training_config(model: dict[str, Any], batch_size: int, **fields: Any) -> TrainConfig:
    """Returns the trunk of plain data, as a process is given it: fields of ModelConfig, sequences a step, and other
    fields of TrainConfig."""
    given = {"model": model, "optimizer": {"learning_rate": 0.008}, "num_tokens": [10**9], "batch_size": batch_size}
    return from_data(TrainConfig, {**given, **fields})


def training_rate(num_members: int = 1, **config: Any) -> Callable[[], float]:
    """Returns a function that trains one call of the steps and returns its tokens per second; see training_config."""
    steps = TimedSteps(training_config(**config), num_members)
    steps.train()
    seconds = seconds_of(steps.train)
    return lambda: steps.tokens_per_call / seconds()
