"""Does a law fitted to runs of a PyTorch program forecast its larger ones? The program is gpt_torch.py beside this.

Command:   kleiber sweep examples/own_trainer_torch.py --out out/own_trainer_torch
Hardware:  two CPU cores, about ten minutes when they do nothing else; PyTorch, in this interpreter or in the one that
           the variable TRAINER_PYTHON names.
Expected:  two forecasts with wide intervals. One run: +6.3 % (5.0 times the largest fitted compute) and +7.2 %, both
           inside; runs of some hundred steps scatter by more than one percent, and the gate asks no more than that.
"""

import os
from pathlib import Path

from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.model.config import ModelConfig
from kleiber.train.command import Command
from kleiber.train.config import OptimizerConfig, ScheduleConfig, TrainConfig

PROGRAM = Path(__file__).parent / "gpt_torch.py"
PYTHON = os.environ.get("TRAINER_PYTHON", "{python}")
"""An interpreter with PyTorch; kleiber's own if it has that."""
LAYERS, SEQUENCE = 2, 128


def train(width: int, num_tokens: int, seed: int) -> TrainConfig:
    """Returns one run: the program counts its own parameters, and its record is held against this count."""
    return TrainConfig(
        model=ModelConfig(width, LAYERS, num_heads=4, seq_len=SEQUENCE),
        optimizer=OptimizerConfig(learning_rate=0.008 * 32 / width),
        num_tokens=(num_tokens,),
        batch_size=4,
        seed=seed,
        schedule=ScheduleConfig("cosine", warmup_steps=50),
        command=Command(
            f"'{PYTHON}' '{PROGRAM}' --width {{d_model}} --layers {{num_layers}} --heads {{num_heads}} "
            "--tokens {num_tokens} --learning-rate {learning_rate} --seed {seed} --out {folder}",
            num_params_total=(256 + SEQUENCE) * width + LAYERS * (12 * width**2 + 2 * width) + 2 * width,
            num_params_non_embedding=LAYERS * (12 * width**2 + 2 * width) + 2 * width,
        ),
    )


def experiment() -> Experiment:
    """Four widths at three lengths, two targets of two and five times the largest fitted compute."""
    lengths = (400_000, 800_000, 1_600_000)
    return Experiment(
        name="own_trainer_torch",
        question="Does a law fitted to runs of a PyTorch program forecast its larger ones?",
        trunks=tuple(train(w, n, 10 * w + i) for w in (16, 24, 32, 48) for i, n in enumerate(lengths)),
        targets=(Target("larger", train(80, 3_200_000, 7)), Target("longer", train(32, 6_400_000, 7))),
        gate=Gate(max_error=0.1, max_interval=0.25, max_residual_rms=0.03),
    )
