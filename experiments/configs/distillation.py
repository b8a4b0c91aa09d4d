"""What is a teacher worth in tokens, for students of two sizes and two teachers?

Command:   kleiber sweep distillation --out out/distillation
Hardware:  two CPU cores, about four minutes.
Expected:  a teacher is worth 1.3 to 1.5 times the tokens.

Two teachers are trained first, and students learn their probabilities in place of the text, at two lengths; students
without a teacher, at these lengths and a longer one, say at which length they have the same loss. A seed has one
data order, taught or not. --set teacher.temperature=2 asks for another temperature of all that have a teacher.
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.train.config import EvalConfig, OptimizerConfig, TeacherConfig, TrainConfig

STUDENTS = (16, 24)
TEACHERS = {24: 1_000_000, 48: 1_000_000}
"""Tokens by width."""
TAUGHT, LONGER = (200_000, 400_000), (800_000,)
SEEDS = (0, 1, 2)


def train(d_model: int, num_tokens: tuple[int, ...], seed: int, teacher: TeacherConfig | None = None) -> TrainConfig:
    """Returns a student, or a teacher."""
    return TrainConfig(
        model=ModelConfig(d_model, num_layers=2, num_heads=2, has_previous_token_mix=True),
        optimizer=OptimizerConfig(learning_rate=0.008),
        num_tokens=num_tokens,
        seed=seed,
        evaluation=EvalConfig(num_tokens=131_072),
        teacher=teacher,
    )


def experiment() -> Experiment:
    """Two sizes of students, each alone and with each teacher, three seeds; the teachers have a seed of their own."""
    teachers = [TeacherConfig(train=train(d, (tokens,), seed=9)) for d, tokens in TEACHERS.items()]
    alone = [train(d, (*TAUGHT, *LONGER), seed) for seed in SEEDS for d in STUDENTS]
    taught = [train(d, TAUGHT, seed, teacher) for seed in SEEDS for d in STUDENTS for teacher in teachers]
    return Experiment(
        name="distillation",
        question="What is a teacher worth in tokens?",
        trunks=(*alone, *taught),
        laws=(),
    )
