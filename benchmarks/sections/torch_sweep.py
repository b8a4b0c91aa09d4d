"""The peer of a whole sweep, as a task of a Partner: trunks in plain PyTorch, branches and evaluations included."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kleiber.experiments.bench.torch_gpt import TorchTrainer
from kleiber.experiments.config_file import load_experiment
from kleiber.experiments.directory.record import trunk_id
from kleiber.model.functional import init_params
from kleiber.train.config import TrainConfig
from kleiber.train.data.batches import TrainBatches
from kleiber.train.data.run_data import open_run_data
from kleiber.train.update.schedule import cooldown_start, learning_rate_fraction


class SweepTrainer(TorchTrainer):
    """A trainer that can go back, and evaluate."""

    def state(self) -> tuple[Any, Any]:
        """Returns the weights and the optimizer's state; still the live ones."""
        return self.model.state_dict(), self.optimizer.state_dict()

    def load_state(self, state: tuple[Any, Any]) -> None:
        """Goes back to a copy of what state returned."""
        self.model.load_state_dict(state[0])
        self.optimizer.load_state_dict(state[1])

    @torch.no_grad()
    def evaluate(self, tokens_BT1: np.ndarray) -> float:
        """Returns the mean loss of a batch, nats a token."""
        return self.loss(tokens_BT1).item()


def trunks(config_file: str, num_threads: int) -> Callable[[str], dict[int, float]]:
    """Returns a function that trains the trunk of a name and returns the loss at each of its token counts."""
    torch.set_num_threads(num_threads)
    configs = {trunk_id(config): config for config in load_experiment(config_file).trunks}
    return lambda name: train_trunk(configs[name])


def train_trunk(config: TrainConfig) -> dict[int, float]:
    """Returns the validation loss at each token count, on kleiber's own batches, schedule and validation windows.

    The plateau is trained once, a copy of it is cooled down for each count.
    """
    data = open_run_data(config)
    batches = TrainBatches(data.train, config.batch_size, config.seed, None, config.data.max_epochs)
    rate, decay = config.optimizer.learning_rate, config.optimizer.weight_decay
    trainer = SweepTrainer(config.model, init_params(config.model, config.seed), rate, weight_decay=decay)
    step, losses = 0, {}

    def advance(stop: int, total: int, step: int) -> None:
        windows = data.train.batch(config, batches.next_indices(stop - step), data.newlines).inputs
        for fraction, window in zip(
            learning_rate_fraction(config.schedule, np.arange(step, stop), total), windows, strict=True
        ):
            trainer.set_rate(rate * float(fraction))
            trainer.step(window)

    for num_tokens in config.num_tokens:
        total = config.steps_at(num_tokens)
        start = cooldown_start(config.schedule, total)
        advance(start, total, step)
        held, position = copy.deepcopy(trainer.state()), batches.state()
        advance(total, total, start)
        size = config.evaluation.batch_size
        parts = [data.windows[first : first + size] for first in range(0, len(data.windows), size)]
        losses[num_tokens] = float(np.average([trainer.evaluate(p) for p in parts], weights=[len(p) for p in parts]))
        trainer.load_state(held)
        batches.restore(position)
        step = start
    return losses
