"""What are weights of 4 bits worth in parameters, and does that change with size?

Command:   kleiber sweep quantisation --out out/quantisation
Hardware:  two CPU cores, about six minutes.
Expected:  4 bits from the cooldown on are worth about four fifths of the parameters, 3 bits about half.

A level is a cooldown of its own from the plateau that all levels of a size and seed share; the weights are rounded in
every step of it (straight-through), tables included. Four sizes more are trained dense, so that a damaged model finds
its equal among smaller ones.
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import CompressionConfig, ModelConfig
from kleiber.train.config import EvalConfig, OptimizerConfig, TrainConfig

BITS = (32, 6, 4, 3)
LEVELS = {12: (32,), 16: (32,), 24: BITS, 32: (32,), 40: BITS, 48: (32,), 64: BITS}
"""Bits by width."""
SEEDS = (0, 1, 2)


def train(d_model: int, weight_bits: int, seed: int) -> TrainConfig:
    """Returns one level of one trunk; a seed has one data order at all sizes."""
    compression = CompressionConfig(weight_bits=weight_bits)
    model = ModelConfig(d_model, num_layers=2, num_heads=2, has_previous_token_mix=True, compression=compression)
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(learning_rate=0.008),
        num_tokens=(500_000, 1_000_000),
        seed=seed,
        evaluation=EvalConfig(num_tokens=131_072),
    )


def experiment() -> Experiment:
    """Three sizes with four levels each, four dense ones between and below, three seeds."""
    return Experiment(
        name="quantisation",
        question="What are weight_bits below 32 worth in parameters, and does that change with size?",
        trunks=tuple(train(d, bits, seed) for seed in SEEDS for d, levels in LEVELS.items() for bits in levels),
        laws=(),
    )
