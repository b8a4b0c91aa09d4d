"""How good does a translator of 0.7 million parameters get on help pages, and how soon?

Command:   kleiber data prepare office-help-en-zh --tokenizer sentencepiece:2000
           kleiber train translation --out out/translation
           kleiber score out/translation/runs/d96-L2-s0-3c8688-D4000000
Hardware:  one CPU core, 704 CPU seconds on 26 Nov 2026, all three lengths together.

Result:    3.28, 2.53 and 2.05 nats a target token after 1, 2 and 4 million; after the last BLEU 34.5 [30.6, 38.1]
           on all 1,117 test pairs (--beam 1), where copying the source gets 5.5 [1.5, 8.5].
"""

from kleiber.experiments.experiment import Experiment
from kleiber.model.config import ModelConfig
from kleiber.model.encoder import EncoderConfig
from kleiber.train.config import DataConfig, EvalConfig, OptimizerConfig, ScheduleConfig, TrainConfig


def experiment() -> Experiment:
    """One trunk, measured at three lengths."""
    model = ModelConfig(
        d_model=96,
        num_layers=2,
        num_heads=4,
        vocab_size=2000,
        seq_len=128,
        family="encoder_decoder",
        encoder=EncoderConfig(num_layers=2, seq_len=168),
        has_previous_token_mix=True,
    )
    trunk = TrainConfig(
        model,
        OptimizerConfig(learning_rate=0.008),
        (1_000_000, 2_000_000, 4_000_000),
        batch_size=16,
        objective="sequence_to_sequence",
        data=DataConfig("office-help-en-zh", "sentencepiece:2000", max_epochs=20),
        schedule=ScheduleConfig(warmup_steps=50),
        evaluation=EvalConfig(num_tokens=32_768),
    )
    return Experiment(
        name="translation",
        question="How good does a translator of 0.7 million parameters get on help pages, and how soon?",
        trunks=(trunk,),
        laws=(),
    )
