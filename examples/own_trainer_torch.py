"""Does a law fitted to runs of a PyTorch program forecast its larger ones? The program is gpt_torch.py beside this.

Command:   kleiber sweep examples/own_trainer_torch.py --out out/own_trainer_torch
Hardware:  two CPU cores: 995 s of CPU time, nine minutes where they do nothing else (28 on a busy machine,
           interrupted once); PyTorch, in this interpreter or in the one that the variable TRAINER_PYTHON names.
Expected:  two forecasts, registered before their runs begin: +2.6 % and +2.7 %, both inside intervals of 9 %, and exit
           code 3, for five of the gate's seven promises are missed. Width 24 does not learn between 2 and 4 million
           tokens what the wider ones do, so no smooth law holds the runs to more than 1.8 %.

The design is the quickstart's: five widths, two seeds, and several lengths of each start by branches that cool down.
"""

import os
from pathlib import Path

from kleiber.experiments.experiment import Experiment, Target
from kleiber.model.config import ModelConfig
from kleiber.train.command import Command
from kleiber.train.config import OptimizerConfig, ScheduleConfig, TrainConfig

PROGRAM = Path(__file__).parent / "gpt_torch.py"
PYTHON = os.environ.get("TRAINER_PYTHON", "{python}")
"""An interpreter with PyTorch; kleiber's own if it has that."""
LAYERS, SEQUENCE = 2, 128
TOKENS = {
    24: (700_000, 1_200_000, 2_200_000, 4_000_000),
    32: (700_000, 1_200_000, 2_200_000, 3_500_000),
    48: (600_000, 1_100_000, 2_000_000),
    64: (500_000, 850_000, 1_300_000),
    96: (420_000, 520_000, 650_000),
}
SEEDS = (0, 1)


def train(width: int, num_tokens: tuple[int, ...], seed: int) -> TrainConfig:
    """Returns one start: the program counts its own parameters, and its record is held against this count."""
    in_blocks = LAYERS * (12 * width**2 + 2 * width) + 2 * width
    return TrainConfig(
        model=ModelConfig(width, LAYERS, num_heads=4, seq_len=SEQUENCE),
        optimizer=OptimizerConfig(learning_rate=0.008 * 32 / width),
        num_tokens=num_tokens,
        batch_size=4,
        seed=seed,
        schedule=ScheduleConfig("wsd", warmup_steps=50, cooldown_fraction=0.2, cooldown_shape="linear"),
        command=Command(
            f"'{PYTHON}' '{PROGRAM}' --width {{d_model}} --layers {{num_layers}} --heads {{num_heads}} "
            "--tokens {all_num_tokens} --learning-rate {learning_rate} --seed {seed} --out {folder}",
            num_params_total=(256 + SEQUENCE) * width + in_blocks,
            num_params_non_embedding=in_blocks,
        ),
    )


def experiment() -> Experiment:
    """Five widths, two seeds, two registered targets: one near the frontier, one far off it."""
    return Experiment(
        name="own_trainer_torch",
        question="Does a law fitted to runs of a PyTorch program forecast its larger ones?",
        trunks=tuple(train(width, tokens, 1000 * seed + width) for seed in SEEDS for width, tokens in TOKENS.items()),
        targets=(Target("larger", train(128, (2_600_000,), 7)), Target("longer", train(48, (9_000_000,), 7))),
    )
