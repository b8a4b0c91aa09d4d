"""What are weights of 4 bits worth in parameters, and does that change with size?

Command:   kleiber sweep quantisation --out out/quantisation
Hardware:  two CPU cores, about six minutes.
Expected:  4 bits from the cooldown on are worth about four fifths of the parameters, 3 bits about half.

A level is a cooldown of its own from the plateau that all levels of a size and seed share; the weights are rounded in
every step of it (straight-through), tables included. Four sizes more are trained dense, so that a damaged model finds
its equal among smaller ones.
"""

from kleiber.experiments.configs.pruning import SEEDS, train
from kleiber.experiments.experiment import Experiment
from kleiber.model.config import CompressionConfig

BITS = (32, 6, 4, 3)
LEVELS = {12: (32,), 16: (32,), 24: BITS, 32: (32,), 40: BITS, 48: (32,), 64: BITS}
"""Bits by width."""


def experiment() -> Experiment:
    """Three sizes with four levels each, four dense ones between and below, three seeds."""
    levels = [(d, CompressionConfig(weight_bits=bits)) for d, widths in LEVELS.items() for bits in widths]
    return Experiment(
        name="quantisation",
        question="What are weight_bits below 32 worth in parameters, and does that change with size?",
        trunks=tuple(train(d, compression, seed) for seed in SEEDS for d, compression in levels),
        laws=(),
    )
