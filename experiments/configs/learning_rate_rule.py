"""Does the best learning rate of the quickstart's rule stay put from its smallest to its largest width? And muP's?

Command:   kleiber sweep learning_rate_rule --out out/learning_rate_rule
Hardware:  two CPU cores, about eight minutes.
Expected:  the vertex of a parabola in log learning rate moves by less than half an octave between widths 24 and 128.
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig, Parametrization
from kleiber.train.config import OptimizerConfig, TrainConfig

RULES: tuple[Parametrization, ...] = ("inverse_width", "mup")
RATES = (0.0028, 0.004, 0.0057, 0.008, 0.0113, 0.016, 0.0226)
"""Half-octave steps around the quickstart's .008, at base width 32."""
WIDTHS = {24: (1_000_000, (0, 1)), 128: (500_000, (0,))}
"""Tokens and seeds of each width: the small model varies more between seeds and costs less."""


def train(rule: Parametrization, d_model: int, num_tokens: int, rate: float, seed: int) -> TrainConfig:
    """Returns one run."""
    model = ModelConfig(d_model=d_model, num_layers=2, num_heads=4, has_previous_token_mix=True, parametrization=rule)
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(learning_rate=rate),
        num_tokens=(num_tokens,),
        seed=1000 * seed + d_model,
        factors=(("parametrization", rule),),
    )


def experiment() -> Experiment:
    """Two rules, the smallest and the largest width of the quickstart, seven rates."""
    return Experiment(
        name="learning_rate_rule",
        question="Does the best learning rate of each rule stay put from the smallest to the largest width?",
        trunks=tuple(
            train(rule, d_model, num_tokens, rate, seed)
            for rule in RULES
            for d_model, (num_tokens, seeds) in WIDTHS.items()
            for seed in seeds
            for rate in RATES
        ),
        laws=(),
    )
