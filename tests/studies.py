"""Studies with the runs a sweep of them would have measured: for claims about answers, nothing is trained."""

import math
from dataclasses import replace

from kleiber.experiments.experiment import Experiment
from kleiber.experiments.planning.cells import TrunkCell, trunk_cells
from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig, OptimizerConfig, TrainConfig

RATES = (0.004, 0.008, 0.016, 0.032)
RATE_LOSSES = {
    (32, 2): (2.023, 1.981, 2.081, 2.335),
    (32, 8): (2.265, 2.150, 2.124, 2.159),
    (64, 2): (1.889, 1.849, 1.933, 2.247),
    (64, 8): (2.152, 2.017, 1.992, 2.040),
}
REPEAT_LOSSES = {0.0: (2.2163, 1.7553, 1.5918), 0.1: (2.2175, 1.7447, 1.5411), 1.0: (2.2777, 2.0131, 1.8596)}
UNIQUE = 65_536


def trunk(d_model: int = 32, rate: float = 0.008, tokens: tuple[int, ...] = (131_072,), **changes) -> TrainConfig:
    """A small trunk."""
    shape = changes.pop("shape", {})
    optimizer = OptimizerConfig(rate, **changes.pop("optimizer", {}))
    model = ModelConfig(**{"d_model": d_model, "num_layers": 2, "num_heads": 4, "seq_len": 64, **shape})
    return TrainConfig(model, optimizer, tokens, **changes)


def measured(experiment: Experiment, loss_of, **columns) -> list[dict]:
    """The records of an experiment whose point (cell, its place on the trunk) has the loss loss_of says."""
    rows = []
    for cell in trunk_cells(experiment, "fit"):
        for index, planned in enumerate(cell.planned.values()):
            loss = loss_of(cell, index)
            unique = min(planned.num_tokens, cell.config.data.num_unique_tokens or 10**9)
            done = replace(
                planned, status="done", loss=loss, loss_standard_error=0.01, bits_per_byte=loss / math.log(2),
                epochs=planned.num_tokens / unique, num_unique_tokens=unique,
            )  # fmt: skip
            rows.append(done.to_json() | columns)
    return rows


def rates_and_batches() -> tuple[Experiment, list[dict]]:
    """Learning rate x batch at two widths, one seed."""
    trunks = tuple(trunk(d, rate, batch_size=batch) for d in (32, 64) for batch in (2, 8) for rate in RATES)
    experiment = Experiment("lr_batch", "How does the best learning rate move with batch size?", trunks, laws=())

    def loss(cell: TrunkCell, _: int) -> float:
        config = cell.config
        place = RATE_LOSSES[config.model.d_model, config.batch_size]
        return place[RATES.index(config.optimizer.learning_rate)]

    return experiment, measured(experiment, loss)


def repeats() -> tuple[Experiment, list[dict]]:
    """Passes over little text x weight decay."""
    data = DataConfig(num_unique_tokens=UNIQUE, max_epochs=16)
    lengths = (UNIQUE, 4 * UNIQUE, 16 * UNIQUE)
    trunks = tuple(trunk(48, tokens=lengths, data=data, optimizer={"weight_decay": w}) for w in REPEAT_LOSSES)
    experiment = Experiment("repeat", "What do 1, 4 and 16 epochs cost, with weight decay?", trunks, laws=())
    return experiment, measured(experiment, lambda cell, i: REPEAT_LOSSES[cell.config.optimizer.weight_decay][i])


def dtypes() -> tuple[Experiment, list[dict]]:
    """bfloat16 against float32, two widths, two seeds."""
    losses = {  # differences of bfloat16: -.010, +.003, -.002, +.001
        (32, "float32", 0): 2.000, (32, "float32", 1): 2.010, (64, "float32", 0): 1.850, (64, "float32", 1): 1.862,
        (32, "bfloat16", 0): 1.990, (32, "bfloat16", 1): 2.013, (64, "bfloat16", 0): 1.848, (64, "bfloat16", 1): 1.863,
    }  # fmt: skip
    trunks = tuple(trunk(d, seed=s, shape={"compute_dtype": t}) for d, t, s in losses)
    experiment = Experiment("bf16", "Does bfloat16 cost loss?", trunks, laws=())

    def loss(cell: TrunkCell, _: int) -> float:
        return losses[cell.config.model.d_model, cell.config.model.compute_dtype, cell.config.seed]

    return experiment, measured(experiment, loss)


def tokenizers() -> tuple[Experiment, list[dict]]:
    """SentencePiece against bytes at two widths."""
    bits = {
        (32, "bytes"): 2.585,
        (32, "sentencepiece:1000"): 2.330,
        (64, "bytes"): 2.394,
        (64, "sentencepiece:1000"): 2.225,
    }
    vocabularies = {"bytes": (256, 300_000), "sentencepiece:1000": (1000, 100_000)}
    trunks = tuple(
        trunk(d, tokens=(vocabularies[t][1],), data=DataConfig(tokenizer=t), shape={"vocab_size": vocabularies[t][0]},
              factors=(("tokenizer_kind", t),))
        for d, t in bits
    )  # fmt: skip
    experiment = Experiment("tokenizers", "Does a SentencePiece vocabulary beat bytes?", trunks, laws=())
    rows = measured(experiment, lambda *_: 2.0, num_validation_bytes=262_144)
    for row in rows:
        row["bits_per_byte"] = bits[row["d_model"], row["tokenizer"]]
        row["loss"] = row["bits_per_byte"] * math.log(2) * (1 if row["tokenizer"] == "bytes" else 2.78)
    return experiment, rows
