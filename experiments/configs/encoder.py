"""Does the loss on hidden bytes follow a law, and does it forecast a larger encoder?

Command:   kleiber sweep encoder --out out/encoder
Hardware:  two CPU cores, about six minutes; nothing to download but the corpus, which ships inside a package.

The quickstart's recipe with two changes: 30 % of the bytes of each row are hidden and read from both sides, and the
input holds both neighbours of each byte. Without them small encoders sit on a plateau, each seed for another time.
Only the hidden bytes carry loss, so that the runs are longer than a decoder's, and noisier: the gate allows a residual
rms of 1.5 % where a decoder's is held to .6 %.

Result: exponents alpha .48 [.23, 1.02] and beta .65 [.47, .91], residual rms 1.00 %; the target forecast as 1.1511
[1.1178, 1.1854] measured 1.1672, 1.4 % more and inside.
"""

from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.model.config import ModelConfig
from kleiber.train.config import MaskingConfig, OptimizerConfig, TrainConfig

TOKENS = {
    24: (2_500_000, 4_000_000, 7_000_000),
    32: (2_500_000, 4_000_000, 7_000_000),
    48: (2_000_000, 3_200_000, 5_000_000),
    64: (1_600_000, 2_500_000, 3_500_000),
}
SEEDS = (0, 1)


def train(d_model: int, num_tokens: tuple[int, ...], seed: int) -> TrainConfig:
    """Returns one trunk of the family; each size and seed has its own data order."""
    model = ModelConfig(
        d_model=d_model,
        num_layers=2,
        num_heads=4,
        family="encoder",
        has_previous_token_mix=True,
        has_next_token_mix=True,
    )
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(learning_rate=0.008),
        num_tokens=num_tokens,
        objective="masked",
        masking=MaskingConfig(rate=0.3),
        seed=1000 * seed + d_model,
    )


def experiment() -> Experiment:
    """Four sizes, two seeds, one registered target of three times the largest fitted compute."""
    return Experiment(
        name="encoder",
        question="Does the loss on hidden bytes follow a law, and does it forecast a larger encoder?",
        trunks=tuple(train(d, tokens, seed) for seed in SEEDS for d, tokens in TOKENS.items()),
        targets=(Target("larger", train(96, (4_500_000,), 7)),),
        gate=Gate(max_residual_rms=0.015),
    )
