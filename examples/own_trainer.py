"""Does a law fitted to another program's runs forecast its larger ones? The program is bigram_numpy.py beside this.

Command:   kleiber sweep examples/own_trainer.py --out out/own_trainer
Hardware:  two CPU cores, about a minute.
Expected:  two registered forecasts and their outcomes. A toy: widths are ranks of a bigram table, so the law is rough.
"""

from pathlib import Path

from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.model.config import ModelConfig
from kleiber.train.command import Command
from kleiber.train.config import OptimizerConfig, ScheduleConfig, TrainConfig

PROGRAM = Path(__file__).parent / "bigram_numpy.py"
LENGTHS = (25_600, 51_200, 102_400)


def train(width: int, num_tokens: int, seed: int) -> TrainConfig:
    """Returns one run of the program; the fields that its line does not take describe it in the table."""
    return TrainConfig(
        model=ModelConfig(d_model=width, num_layers=1, num_heads=1, vocab_size=32, seq_len=256),
        optimizer=OptimizerConfig(learning_rate=4.0, name="sgd"),
        num_tokens=(num_tokens,),
        batch_size=1,
        seed=seed,
        schedule=ScheduleConfig("wsd", warmup_steps=0, cooldown_fraction=1.0, cooldown_shape="linear"),
        command=Command(
            f"{{python}} '{PROGRAM}' --width {{d_model}} --tokens {{num_tokens}} --seed {{seed}} "
            "--learning-rate {learning_rate} --out {folder}",
            num_params_total=2 * 32 * width,
            num_params_non_embedding=32 * width,
        ),
    )


def experiment() -> Experiment:
    """Four widths at three lengths, two targets beyond them."""
    return Experiment(
        name="own_trainer",
        question="Does a law fitted to another program's runs forecast its larger ones?",
        trunks=tuple(train(w, n, 100 * w + i) for w in (2, 4, 6, 8) for i, n in enumerate(LENGTHS)),
        targets=(Target("wider", train(12, 204_800, 7)), Target("longer", train(6, 409_600, 7))),
        gate=Gate(max_error=0.2, max_interval=1.0, max_residual_rms=0.1, requires_inside=False),
    )
