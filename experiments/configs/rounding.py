"""How much of the damage of 4-bit weights does GPTQ take back, of models that are finished?

Command:   kleiber sweep rounding --out out/rounding
Hardware:  two CPU cores, about a minute.
Expected:  rounding to the nearest costs .03 nats, GPTQ three quarters of that.

The miniature's runs, each measured as it ended: dense; its matrices rounded to 4 bits, each weight to the nearest; and
by GPTQ, of which second moments of the first training windows are all that is asked. The table keeps 8 bits.
"""

from dataclasses import replace

from kleiber.experiments.configs.miniature import train
from kleiber.experiments.experiment import Experiment
from kleiber.model.config import CompressionConfig
from kleiber.train.config import TrainConfig

LEVELS = (
    CompressionConfig(),
    CompressionConfig(weight_bits=4, table_bits=8),
    CompressionConfig(weight_bits=4, table_bits=8, rounding="gptq"),
)
WIDTHS, SEEDS, TOKENS = (8, 16, 24, 32), (0, 1, 2), (200_000, 400_000)


def level(d_model: int, seed: int, compression: CompressionConfig) -> TrainConfig:
    """Returns a run of the miniature, compressed at its end."""
    plain = train(d_model, TOKENS, seed)
    plain = replace(plain, seed=seed)  # one data order and one seed at all sizes
    return replace(plain, model=replace(plain.model, compression=compression), compressed_from="end")


def experiment() -> Experiment:
    """Four sizes, three seeds, three levels of each."""
    return Experiment(
        name="rounding",
        question="What does rounding to 4 bits cost, and what does GPTQ take back?",
        trunks=tuple(level(d, seed, each) for seed in SEEDS for d in WIDTHS for each in LEVELS),
        laws=(),
    )
