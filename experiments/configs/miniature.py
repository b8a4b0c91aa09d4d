"""The whole way in about a minute: tiny byte models, a law, two registered forecasts, a report. Not a study.

Command:   kleiber sweep miniature --out out/miniature
Hardware:  two CPU cores, about a minute.
Expected:  a rough law; the gate is wide because runs of a few hundred steps mostly measure the start of training.
"""

from kleiber.experiments.experiment import Experiment, Gate, Target
from kleiber.model.config import ModelConfig
from kleiber.train.config import EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig


def train(d_model: int, num_tokens: tuple[int, ...], seed: int) -> TrainConfig:
    """Returns one trunk of a one-layer family with 64-byte context."""
    return TrainConfig(
        model=ModelConfig(d_model=d_model, num_layers=1, num_heads=2, seq_len=64, has_previous_token_mix=True),
        optimizer=OptimizerConfig(learning_rate=0.01),
        num_tokens=num_tokens,
        batch_size=4,
        seed=1000 * seed + d_model,
        schedule=ScheduleConfig(warmup_steps=50),
        evaluation=EvalConfig(num_tokens=65_536),
        checkpoint_seconds=5.0,
    )


def experiment() -> Experiment:
    """Four sizes, two targets of more than four times the largest fitted compute."""
    tokens = (100_000, 200_000, 400_000)
    return Experiment(
        name="miniature",
        question="Does every stage run, resume and agree with itself?",
        trunks=tuple(train(d, tokens, seed) for seed in (0, 1) for d in (8, 16, 24, 32)),
        targets=(Target("larger", train(48, (1_200_000,), 0)), Target("longer", train(16, (4_000_000,), 7))),
        gate=Gate(max_error=0.1, max_interval=0.5, max_residual_rms=0.05, requires_inside=False),
    )
