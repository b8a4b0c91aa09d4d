"""How many tokens do AdamH and MuonH save against AdamW, each at the best of five learning rates?

Command:   kleiber sweep optimizers --out out/optimizers
Hardware:  two CPU cores, about fifteen minutes.
Expected:  the report says, for each of the two and at each of three widths, with how many times the tokens AdamW would
           have the same loss; whatever it is. docs/recipes.md has what came of it here.

Every optimizer is tuned alike: the same octave steps, and the same number of them, around a rate that suits it. What is
compared is each at its own best rate, at each width, length and seed.
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.train.config import OptimizerConfig, TrainConfig

TOKENS = {24: (250_000, 500_000, 1_000_000), 48: (200_000, 400_000, 800_000), 96: (100_000, 200_000, 400_000)}
"""Lengths of each width, branches of one trunk."""
RATES = {
    "AdamW": (0.002, 0.004, 0.008, 0.016, 0.032),
    "AdamH": (0.002, 0.004, 0.008, 0.016, 0.032),
    "MuonH": (0.004, 0.008, 0.016, 0.032, 0.064),
}
SEEDS = (0, 1)


def train(optimizer: str, d_model: int, rate: float, seed: int) -> TrainConfig:
    """Returns one trunk: AdamW by the quickstart's rule. Matrices of fixed norm may not start at zero, as some do,
    so the others start as `standard` has it."""
    model = ModelConfig(
        d_model=d_model,
        num_layers=2,
        num_heads=4,
        has_previous_token_mix=True,
        parametrization="inverse_width" if optimizer == "AdamW" else "standard",
    )
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(
            learning_rate=rate,
            name="muon" if optimizer == "MuonH" else "adamw",
            has_fixed_norms=optimizer != "AdamW",
        ),
        num_tokens=TOKENS[d_model],
        seed=1000 * seed + d_model,
        factors=(("update_rule", optimizer),),
    )


def experiment() -> Experiment:
    """Three optimizers, three widths, five rates, two seeds."""
    return Experiment(
        name="optimizers",
        question="With how many times the tokens would AdamW, at its best learning rate, be as good as each optimizer?",
        trunks=tuple(
            train(optimizer, d_model, rate, seed)
            for seed in SEEDS
            for optimizer, rates in RATES.items()
            for d_model in TOKENS
            for rate in rates
        ),
        laws=(),
    )
