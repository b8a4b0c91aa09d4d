"""What is a model worth of whose weights a half or a quarter is left, and does that change with size?

Command:   kleiber sweep pruning --out out/pruning
Hardware:  two CPU cores, about six minutes.
Expected:  half of the weights inside the layers are worth seven tenths of all parameters, more than are left; a quarter
           of them a quarter, less than is left: a smaller dense model is better.

A level is a cooldown of its own from the plateau that all levels of a size and seed share: the smallest weights of each
matrix go when it begins and stay away. Four sizes more are trained dense, so that a damaged model finds its equal.
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import CompressionConfig, ModelConfig
from kleiber.train.config import EvalConfig, OptimizerConfig, TrainConfig

SHARES = (0.0, 0.5, 0.75)
LEVELS = {12: (0.0,), 16: (0.0,), 24: SHARES, 32: (0.0,), 40: SHARES, 48: (0.0,), 64: SHARES}
"""Shares of zeros by width."""
SEEDS = (0, 1, 2)


def train(d_model: int, compression: CompressionConfig, seed: int) -> TrainConfig:
    """Returns one level of one trunk; a seed has one data order at all sizes."""
    model = ModelConfig(d_model, num_layers=2, num_heads=2, has_previous_token_mix=True, compression=compression)
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(learning_rate=0.008),
        num_tokens=(500_000, 1_000_000),
        seed=seed,
        evaluation=EvalConfig(num_tokens=131_072),
    )


def experiment() -> Experiment:
    """Three sizes with three levels each, four dense ones between and below, three seeds."""
    levels = [(d, CompressionConfig(sparsity=share)) for d, shares in LEVELS.items() for share in shares]
    return Experiment(
        name="pruning",
        question="What is a sparsity of the weights worth in parameters, and does that change with size?",
        trunks=tuple(train(d, compression, seed) for seed in SEEDS for d, compression in levels),
        laws=(),
    )
