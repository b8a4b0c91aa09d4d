"""How does the loss of a residual network on images fall with its size and the images it sees, and is it forecast?"""

from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.model.config import ModelConfig
from kleiber.model.image import ImageConfig
from kleiber.train.config import DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig

DIGITS = DataConfig("digits", max_epochs=50, augment=("shift",))
WIDTHS = (2, 4, 6, 8, 12)
IMAGES = (3_000, 6_000, 12_000, 24_000)
SEEDS = (0, 1, 2)
GATE = Gate(max_error=0.3, max_interval=0.6, max_residual_rms=0.15)
"""349 images tell a loss no better than this, most of which a few hard ones make."""


def train(width: int, num_images: tuple[int, ...], seed: int) -> TrainConfig:
    """Returns one trunk of the ladder."""
    model = ModelConfig(
        d_model=width,
        num_layers=3,
        num_heads=2,
        vocab_size=10,
        family="residual_network",
        image=ImageConfig(side=8, channels=1),
        activation="silu",
        norm="layernorm",
        has_norm_gain=True,
        base_d_model=8,
        base_num_layers=3,
    )
    return TrainConfig(
        model,
        OptimizerConfig(0.008),
        num_images,
        batch_size=32,
        objective="label",
        seed=1000 * seed + width,
        data=DIGITS,
        schedule=ScheduleConfig(warmup_steps=20),
    )


def experiment() -> Experiment:
    """Five sizes, three seeds, one registered target of three times the largest fitted compute."""
    return Experiment(
        name="vision",
        question="How does the loss of a residual network on images fall with its size and the images it sees?",
        trunks=tuple(train(width, IMAGES, seed) for seed in SEEDS for width in WIDTHS),
        targets=(Target("larger", train(20, IMAGES[-1:], 7)),),
        gate=GATE,
    )
