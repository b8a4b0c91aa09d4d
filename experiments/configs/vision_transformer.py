"""How does the loss of a vision Transformer on images fall with its size and the images it sees, and is it forecast?

Command:   kleiber sweep vision_transformer --out out/vision_transformer
Hardware:  two CPU cores, seven minutes on 26 Nov 2026 while many others used them, fewer when idle; the digits
           ship inside scikit-learn (kleiber[images]), nothing is downloaded.

Result:    1.24 nats an image at 1,856 parameters and 6,016 images seen, 0.166 at 14,784 and 48,000 (means of two
           seeds), residual rms 13 %; the target of 40,000 parameters, forecast as 0.1511 [0.1027, 0.2223], measured
           0.1338, inside, and told 95.4 % of 349 held-out images right, as a linear model of the pixels does (94.0 %).
"""

from kleiber.experiments.configs.vision import GATE, on_digits
from kleiber.experiments.experiment import Experiment, Target
from kleiber.model.config import ModelConfig
from kleiber.model.image import ImageConfig
from kleiber.train.config import TrainConfig

WIDTHS = (8, 12, 16, 24)
IMAGES = (6_000, 12_000, 24_000, 48_000)
SEEDS = (0, 1)


def train(d_model: int, num_images: tuple[int, ...], seed: int) -> TrainConfig:
    """Returns one trunk of the ladder."""
    model = ModelConfig(
        d_model=d_model,
        num_layers=2,
        num_heads=4,
        vocab_size=10,
        family="vision_transformer",
        image=ImageConfig(side=8, channels=1, patch_size=2),
        activation="gelu",
        norm="layernorm",
        has_norm_gain=True,
        positions="learned",
        base_d_model=16,
    )
    return on_digits(model, 0.02, 50, num_images, seed)


def experiment() -> Experiment:
    """Four sizes, two seeds, one registered target of nearly three times the largest fitted compute."""
    return Experiment(
        name="vision_transformer",
        question="How does the loss of a vision Transformer on images fall with its size and the images it sees?",
        trunks=tuple(train(d_model, IMAGES, seed) for seed in SEEDS for d_model in WIDTHS),
        targets=(Target("larger", train(40, IMAGES[-1:], 7)),),
        gate=GATE,
    )
