"""What does it cost in loss to synchronise replicas every H steps instead of every step, and what does it save?

Command:   kleiber sweep delayed_synchronisation --out out/delayed_synchronisation
Hardware:  two CPU cores, about six minutes; replicas share a core here and would each have a machine elsewhere.
Expected:  H = 50 sends a fiftieth of the bytes, for a loss some percent higher in a run as short as this (977 steps).
           The outer momentum of .9 that DiLoCo (arXiv:2311.08105) uses over tens of thousands of steps needs more
           outer steps than a short run has: .5 costs far less here.
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.train.config import DelayedSyncConfig, OptimizerConfig, TrainConfig

LEVELS = ((1, 1, 0.0), (2, 10, 0.5), (2, 50, 0.5), (4, 10, 0.5), (4, 50, 0.5), (2, 10, 0.9), (2, 50, 0.9))
"""Replicas, inner steps, outer momentum; one replica is plain training."""
SEEDS = (0, 1)


def train(num_replicas: int, num_inner_steps: int, momentum: float, seed: int) -> TrainConfig:
    """Returns one run."""
    delayed = DelayedSyncConfig(num_replicas, num_inner_steps, outer_momentum=momentum) if num_replicas > 1 else None
    return TrainConfig(
        model=ModelConfig(d_model=32, num_layers=2, num_heads=4, has_previous_token_mix=True),
        optimizer=OptimizerConfig(learning_rate=0.008),
        num_tokens=(1_000_000,),
        batch_size=8,
        seed=seed,
        delayed_sync=delayed,
        factors=(
            ("num_replicas", num_replicas),
            ("num_inner_steps", num_inner_steps),
            ("outer_momentum", momentum),
        ),
    )


def experiment() -> Experiment:
    """Plain training, and two numbers of replicas at two intervals, each twice; and the larger momentum."""
    return Experiment(
        name="delayed_synchronisation",
        question="What does synchronising replicas every H steps cost in loss, and what does it save in bytes?",
        trunks=tuple(train(*level, seed) for level in LEVELS for seed in SEEDS),
        laws=(),
    )
