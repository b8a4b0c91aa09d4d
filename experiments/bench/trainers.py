"""The trainers of one model that section step compares, as tasks of a Partner: kleiber's, PyTorch's, plain JAX's.

All train the same windows from the same weights; each answers its seconds and the losses of its steps, float32.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from kleiber.experiments.bench.step_shapes import Arrangement, StepShape, arrangements, shapes
from kleiber.experiments.bench.timed_steps import TimedSteps, random_windows, training_config
from kleiber.model.functional import init_params
from kleiber.train.config import TrainConfig


def steps(arrangement: str, shape: str) -> Callable[[], dict[str, Any]]:
    """Returns a function that trains a shape of shapes() its num_steps in an arrangement of arrangements(), and returns
    {"seconds", "losses"}."""
    how = arrangements()[arrangement]
    config = _config(shapes()[shape], how)
    train = TimedSteps(config).train if how.kind == "kleiber" else _one_by_one(config, how)

    def measure() -> dict[str, Any]:
        started = time.perf_counter()
        losses = train()
        return {"seconds": time.perf_counter() - started, "losses": [float(loss) for loss in losses]}

    return measure


def _config(shape: StepShape, how: Arrangement) -> TrainConfig:
    return training_config(
        dataclasses.asdict(shape.model),
        shape.batch_size,
        steps_per_call=shape.num_steps,
        mesh={"data": how.num_devices},
    )


def _one_by_one(config: TrainConfig, how: Arrangement) -> Callable[[], list[float]]:
    """Returns a function that trains as many steps with a peer, one call a step."""
    params, rate = init_params(config.model, config.seed), config.optimizer.learning_rate
    if how.kind.startswith("torch"):
        import torch

        from kleiber.experiments.bench.torch_gpt import TorchTrainer

        torch.set_num_threads(how.num_threads)
        step = TorchTrainer(config.model, params, rate, is_compiled=how.kind == "torch_compiled").step
    else:
        from kleiber.experiments.bench.plain_jax import PlainTrainer

        step = PlainTrainer(config.model, params, rate).step
    batches = random_windows(config).reshape(config.steps_per_call, config.batch_size, -1)
    return lambda: [step(batch) for batch in batches]
