"""The peer of a whole sweep: trains trunks in plain PyTorch, branches and evaluations included.

    python -m kleiber.experiments.bench.torch_sweep NUM_THREADS EXPERIMENT

Reads the index of a trunk a line, trains it on kleiber's own batches, schedule and validation windows, and answers
{"tokens": trained, "losses": {tokens of the point: loss}} a line.
"""

import copy
import json
import sys
from typing import Any

import numpy as np
import torch

from kleiber.experiments.bench.torch_gpt import TorchTrainer
from kleiber.experiments.config_file import load_experiment
from kleiber.model.functional import init_params
from kleiber.train.config import TrainConfig
from kleiber.train.data.batches import TrainBatches
from kleiber.train.run_data import open_run_data
from kleiber.train.schedule import cooldown_start, learning_rate_fraction


def train_trunk(config: TrainConfig) -> dict[str, Any]:
    """Returns what one trunk measured: the plateau once, a cooled-down copy for each token count."""
    data = open_run_data(config)
    batches = TrainBatches(data.train, config.batch_size, config.seed, None, config.data.max_epochs)
    rate, decay = config.optimizer.learning_rate, config.optimizer.weight_decay
    trainer = TorchTrainer(config.model, init_params(config.model, config.seed), rate, weight_decay=decay)
    tokens, step, losses = 0, 0, {}

    def advance(stop: int, total: int, step: int) -> None:
        windows = data.train.windows(batches.next_indices(stop - step))
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
        tokens += (total - step) * config.tokens_per_step
        trainer.load_state(held)
        batches.restore(position)
        step = start
    return {"tokens": tokens, "losses": losses}


def main(arguments: list[str]) -> None:
    """Answers lines until stdin ends."""
    torch.set_num_threads(int(arguments[0]))
    trunks = load_experiment(arguments[1]).trunks
    for line in sys.stdin:
        print(json.dumps(train_trunk(trunks[int(line)])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
