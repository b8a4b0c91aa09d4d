"""One trainer in a process of its own: told a number of steps on stdin, it trains them and answers their seconds.

    python -m kleiber.experiments.bench.step_worker ARRANGEMENT SHAPE

The first line it prints is JSON: what it is and the losses of its first steps, which must agree between peers.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np

from kleiber.experiments.bench.step_shapes import LEARNING_RATE, NUM_BATCHES, StepShape, arrangements, shapes
from kleiber.model.functional import init_params


def _batches(shape: StepShape) -> np.ndarray:
    """Returns the tokens all peers train on, uint8 [NUM_BATCHES, B, T + 1]: random, so that nothing is left to learn
    and the time of a step never depends on it."""
    size = (NUM_BATCHES, shape.batch_size, shape.model.seq_len + 1)
    return np.random.default_rng(0).integers(0, shape.model.vocab_size, size, dtype=np.uint8)


def _kleiber(shape: StepShape, num_devices: int) -> Callable[[int], np.ndarray]:
    """Returns a function that trains so many steps through the block that `kleiber train` runs."""
    import jax
    import jax.numpy as jnp

    from kleiber.parallel.config import MeshConfig
    from kleiber.parallel.mesh import make_mesh, use_mesh
    from kleiber.train.config import OptimizerConfig, TrainConfig
    from kleiber.train.optimizer import make_optimizer
    from kleiber.train.placement import initial_state, place_batches
    from kleiber.train.step import Hyperparameters, make_block

    config = TrainConfig(
        model=shape.model,
        optimizer=OptimizerConfig(LEARNING_RATE),
        num_tokens=(10**9,),
        batch_size=shape.batch_size,
        mesh=MeshConfig(data=num_devices),
        steps_per_call=NUM_BATCHES,
    )
    mesh = make_mesh(config.mesh)
    optimizer = make_optimizer(config.optimizer, config.model, init_params(config.model, 0))
    block = make_block(config, optimizer)
    tokens, fractions = _batches(shape), np.ones(NUM_BATCHES, np.float32)
    with use_mesh(mesh):
        held = [initial_state([config], optimizer, mesh)]
        indices = np.arange(NUM_BATCHES * shape.batch_size).reshape(NUM_BATCHES, -1)
        flat = tokens.reshape(-1, tokens.shape[-1])
    hyper = Hyperparameters(jnp.float32(LEARNING_RATE), jnp.float32(config.optimizer.weight_decay))

    def train(num_steps: int) -> np.ndarray:
        losses = []
        with use_mesh(mesh):
            for start in range(0, num_steps, NUM_BATCHES):
                count = min(NUM_BATCHES, num_steps - start)
                placed = place_batches(mesh, flat.__getitem__, indices, NUM_BATCHES, False)
                held[0], log = block(held[0], hyper, placed, None, fractions, np.uint32(0), np.int32(count))
                losses.append(np.asarray(log.losses)[:count])
            jax.block_until_ready(held[0].params)
        return np.concatenate(losses)

    return train


def _one_by_one(shape: StepShape, kind: str, num_threads: int) -> Callable[[int], np.ndarray]:
    """Returns a function that trains so many steps of a peer, one call a step."""
    params = init_params(shape.model, 0)
    if kind.startswith("torch"):
        import torch

        from kleiber.experiments.bench.torch_gpt import TorchTrainer

        torch.set_num_threads(num_threads)
        step = TorchTrainer(shape.model, params, LEARNING_RATE, is_compiled=kind == "torch_compiled").step
    else:
        from kleiber.experiments.bench.plain_jax import PlainTrainer

        step = PlainTrainer(shape.model, params, LEARNING_RATE).step
    tokens = _batches(shape)
    return lambda num_steps: np.array([step(tokens[i % NUM_BATCHES]) for i in range(num_steps)])


def main(arguments: list[str]) -> None:
    """Answers lines with a number of steps by lines with seconds, until stdin ends."""
    arrangement, shape = arrangements()[arguments[0]], shapes()[arguments[1]]
    started = time.perf_counter()
    if arrangement.kind == "kleiber":
        train = _kleiber(shape, arrangement.num_devices)
    else:
        train = _one_by_one(shape, arrangement.kind, arrangement.num_threads)
    losses = train(4)
    seconds = time.perf_counter() - started
    print(json.dumps({"arrangement": arguments[0], "losses": losses.tolist(), "seconds": seconds}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        train(int(line))
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
