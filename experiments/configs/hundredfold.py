"""How far does a law reach? Runs of a few seconds forecast runs of 10, 30 and 100 times their compute.

Command:   kleiber sweep hundredfold --out out/hundredfold
           Repetitions differ in every seed: --seed 1, --seed 2.
Hardware:  two CPU cores, about half an hour, a third of it for the fit set.
Expected:  misses, which docs/hundredfold.md explains: the two smallest widths do not follow the law of the wider ones,
           and a forecast of runs many times as wide inherits that.

The recipe: the quickstart's (512-token batches, four heads at every width, the previous-token mix, a learning rate that
goes as one over the width), and one thing more that was measured: the rate falls as the tenth root of the horizon. A
trunk takes the rate of its longest branch.
"""

from kleiber.experiments.experiment import Experiment, Target
from kleiber.model.config import ModelConfig
from kleiber.train.config import OptimizerConfig, TrainConfig
from kleiber.train.recipe import Power, Recipe

TOKENS = {
    16: (650_000, 1_250_000, 2_500_000, 5_000_000),
    24: (700_000, 1_400_000, 2_850_000),
    32: (620_000, 1_200_000, 1_850_000),
    48: (500_000, 1_000_000),
    64: (500_000, 620_000),
}
"""The longest of each width costs 5.5e11 FLOPs; shorter runs than these measure the start of training."""
SEEDS = (0, 1, 2, 3, 4)


def shape(d_model: int, num_tokens: tuple[int, ...], seed: int) -> TrainConfig:
    """Returns one trunk of the family before the recipe; each size and seed has its own data order."""
    model = ModelConfig(d_model=d_model, num_layers=2, num_heads=4, has_previous_token_mix=True)
    optimizer = OptimizerConfig(learning_rate=0.008)
    return TrainConfig(model=model, optimizer=optimizer, num_tokens=num_tokens, seed=1000 * seed + d_model)


RECIPE = Recipe.tuned_at(shape(32, (1_000_000,), 0), (Power("learning_rate", "num_tokens", -0.1),), "measured here")


def experiment() -> Experiment:
    """Five sizes, five seeds; three targets near the frontier and one far off it."""
    return Experiment(
        name="hundredfold",
        question="How far does a law of runs of a few seconds reach: 10, 30, 100 times their compute?",
        trunks=tuple(RECIPE(shape(d, tokens, seed)) for seed in SEEDS for d, tokens in TOKENS.items()),
        targets=(
            Target("ten", RECIPE(shape(96, (3_100_000,), 7))),
            Target("thirty", RECIPE(shape(128, (5_900_000,), 7))),
            Target("hundred", RECIPE(shape(192, (8_900_000,), 7))),
            Target("long", RECIPE(shape(64, (20_000_000,), 7))),
        ),
    )
