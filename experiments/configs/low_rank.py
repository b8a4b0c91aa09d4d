"""What is a model worth whose matrices have a half or a quarter of their rank, and does that change with size?

Command:   kleiber sweep low_rank --out out/low_rank
Hardware:  two CPU cores, about six minutes.
Expected:  half of the rank is worth half of the parameters and holds four fifths of them, a quarter a sixth and holds
           half: a smaller dense model is better.

A level is a cooldown of its own from the plateau that all levels of a size and seed share: at its start two factors
take the place of each matrix inside the layers, and they are trained on. Three sizes more are trained dense, so that a
damaged model finds its equal. With --set compressed_from=start every level is of low rank from its first step on;
--grid model.compression.approximation=whitened,plain asks which truncation is better.
"""

from kleiber.experiments.configs.pruning import SEEDS, train
from kleiber.experiments.experiment import Experiment
from kleiber.model.config import CompressionConfig

SHARES = (1.0, 0.5, 0.25)
LEVELS = {8: (1.0,), 12: (1.0,), 16: (1.0,), 24: SHARES, 32: (1.0,), 40: SHARES, 64: SHARES}
"""Shares of the rank by width."""


def experiment() -> Experiment:
    """Three sizes with three levels each, four dense ones between and below, three seeds."""
    levels = [(d, CompressionConfig(rank_share=share)) for d, shares in LEVELS.items() for share in shares]
    return Experiment(
        name="low_rank",
        question="What is a rank_share below 1 worth in parameters, and does that change with size?",
        trunks=tuple(train(d, compression, seed) for seed in SEEDS for d, compression in levels),
        laws=(),
    )
