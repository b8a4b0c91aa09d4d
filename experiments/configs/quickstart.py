"""Does a law fitted to byte models of 20 to 246 thousand parameters forecast larger ones?

Command:   kleiber sweep quickstart --out out/quickstart
Hardware:  two CPU cores, about eight minutes; nothing to download but the corpus, which ships inside a package.
Expected:  forecasts within 1.5 % of the loss of two runs of more than four times the largest fitted compute.

The recipe: 512-token batches, four heads at every width, the previous-token mix, one learning-rate rule,
.008 * 32 / d_model, for every matrix, and token counts by cooldown branches of one trunk.
"""

from kleiber.experiments.experiment import Experiment, Target
from kleiber.model.config import ModelConfig
from kleiber.train.config import OptimizerConfig, TrainConfig

TOKENS = {
    24: (700_000, 1_200_000, 2_200_000, 4_000_000),
    32: (700_000, 1_200_000, 2_200_000, 3_500_000),
    48: (600_000, 1_100_000, 2_000_000),
    64: (500_000, 850_000, 1_300_000),
    96: (420_000, 520_000, 650_000),
}
"""Shorter runs vary by more than one percent between seeds: they measure the start of training, not the law."""
SEEDS = (0, 1)


def train(d_model: int, num_tokens: tuple[int, ...], seed: int) -> TrainConfig:
    """Returns one trunk of the family; each size and seed has its own data order."""
    model = ModelConfig(d_model=d_model, num_layers=2, num_heads=4, has_previous_token_mix=True)
    return TrainConfig(
        model=model, optimizer=OptimizerConfig(learning_rate=0.008), num_tokens=num_tokens, seed=1000 * seed + d_model
    )


def experiment() -> Experiment:
    """Five sizes, two seeds, two registered targets: one near the frontier, one far off it."""
    return Experiment(
        name="quickstart",
        question="Does a law fitted to byte models of 20 to 246 thousand parameters forecast larger ones?",
        trunks=tuple(train(d, tokens, seed) for seed in SEEDS for d, tokens in TOKENS.items()),
        targets=(
            Target("larger", train(128, (2_600_000,), 7)),
            Target("longer", train(48, (9_000_000,), 7)),
        ),
    )
