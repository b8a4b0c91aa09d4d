"""How does the loss of a translator fall with its encoder and with its decoder, and is a larger one forecast?

Command:   kleiber data prepare office-help-en-zh --tokenizer sentencepiece:2000
           kleiber sweep encoder_decoder --out out/encoder_decoder
Hardware:  two CPU cores, 692 CPU seconds on 26 Nov 2026 while many others used them: six minutes where they are idle.

Result:    at 300,000 target tokens a decoder of twice the size loses 2.1 % less (slope .031 [.022, .039]), an encoder
           of twice the size .8 % more (slope -.011 [-.020, -.002]): so early a deeper encoder does not pay. Neither is
           an exponent of Ghorbani's law, which is of models trained to the end: losses of 3.88 to 4.10 tell no floor.
           Residual rms .53 %; the target, six layers on both sides, forecast as 3.918 [3.852, 3.985], measured 3.975,
           inside.
"""

from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.model.config import ModelConfig
from kleiber.model.encoder import EncoderConfig
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig

HELP = DataConfig("office-help-en-zh", "sentencepiece:2000", max_epochs=4)
DEPTHS = (1, 2, 4)
NUM_TOKENS = 300_000
REPEATED = ((1, 1), (2, 2), (4, 4))
"""Pairs of depths that are trained with a second seed, which says how far two runs of one shape lie apart."""


def train(encoder_layers: int, decoder_layers: int, seed: int) -> TrainConfig:
    """Returns one run of the grid."""
    model = ModelConfig(
        d_model=48,
        num_layers=decoder_layers,
        num_heads=4,
        vocab_size=2000,
        seq_len=128,
        family="encoder_decoder",
        encoder=EncoderConfig(encoder_layers, seq_len=168),
        has_previous_token_mix=True,
    )
    return TrainConfig(
        model,
        OptimizerConfig(learning_rate=0.008),
        (NUM_TOKENS,),
        batch_size=4,
        objective="sequence_to_sequence",
        seed=seed,
        data=HELP,
        schedule=ScheduleConfig(warmup_steps=50),
        evaluation=EvalConfig(num_tokens=65_536),
    )


def experiment() -> Experiment:
    """Every pair of three depths, three of them twice, one registered target that is deeper on both sides."""
    grid = [(e, d, 0) for e in DEPTHS for d in DEPTHS] + [(e, d, 1) for e, d in REPEATED]
    return Experiment(
        name="encoder_decoder",
        question="How does the loss of a translator fall with its encoder and with its decoder?",
        trunks=tuple(train(*each) for each in grid),
        targets=(Target("deeper", train(6, 6, 7)),),
        laws=("encoder_decoder_slopes", "encoder_decoder", "power_law"),
        gate=Gate(max_error=0.05, max_interval=0.1, max_residual_rms=0.02),
    )
