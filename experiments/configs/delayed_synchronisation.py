"""What does it cost in loss to synchronise replicas every H steps instead of every step, and what does it save?

Command:   kleiber sweep delayed_synchronisation --out out/delayed_synchronisation
Hardware:  two CPU cores, about five minutes; replicas share a core here and would each have a machine elsewhere.
Expected:  H = 50 sends a fiftieth of the bytes, for a loss some tenths of a percent to some percent higher at this
           small size (DiLoCo, arXiv:2311.08105, sees none at 60 to 400 million parameters and longer warm-up).
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.train.config import DelayedSyncConfig, OptimizerConfig, TrainConfig

REPLICAS = (2, 4)
INNER_STEPS = (10, 50)
SEEDS = (0, 1)


def train(num_replicas: int, num_inner_steps: int, seed: int) -> TrainConfig:
    """Returns one run; one replica is plain training."""
    delayed = DelayedSyncConfig(num_replicas, num_inner_steps) if num_replicas > 1 else None
    return TrainConfig(
        model=ModelConfig(d_model=32, num_layers=2, num_heads=4, has_previous_token_mix=True),
        optimizer=OptimizerConfig(learning_rate=0.008),
        num_tokens=(1_000_000,),
        batch_size=8,
        seed=seed,
        delayed_sync=delayed,
        factors=(("num_replicas", num_replicas), ("num_inner_steps", num_inner_steps)),
    )


def experiment() -> Experiment:
    """Plain training, and two numbers of replicas at two intervals, each twice."""
    levels = [(1, 1), *((replicas, steps) for replicas in REPLICAS for steps in INNER_STEPS)]
    return Experiment(
        name="delayed_synchronisation",
        question="What does synchronising replicas every H steps cost in loss, and what does it save in bytes?",
        trunks=tuple(train(*level, seed) for level in levels for seed in SEEDS),
        laws=(),
    )
