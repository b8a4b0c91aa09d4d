"""Section data: how fast one core makes batches, against how fast the fastest shapes train on one."""

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kleiber.experiments.bench.figures import spread_figure
from kleiber.experiments.bench.interleave import interleaved
from kleiber.experiments.bench.partner import Partner
from kleiber.experiments.bench.setting import Setting
from sections.goals import GOALS

SHAPES: dict[str, dict[str, Any]] = {
    "quickstart's fastest shape (d24)": {
        "d_model": 24, "num_layers": 2, "num_heads": 4, "has_previous_token_mix": True
    },
    "miniature's fastest shape (d8)": {
        "d_model": 8, "num_layers": 1, "num_heads": 2, "seq_len": 64, "has_previous_token_mix": True
    },
}  # fmt: skip
BATCH_SIZE, STEPS = 4, 64
SECONDS = 0.2


def batch_rate(corpus: str, seq_len: int) -> Callable[[], float]:
    """Returns a function that measures tokens per second of the batches that a trunk reads."""
    from kleiber.parallel.config import MeshConfig
    from kleiber.parallel.mesh import make_mesh
    from kleiber.train.config import DataConfig
    from kleiber.train.data.batch import Batch
    from kleiber.train.data.batches import TrainBatches
    from kleiber.train.data.windows import open_tokens
    from kleiber.train.placement import place_batches

    source = open_tokens(DataConfig(corpus), "train", seq_len)
    batches = TrainBatches(source, BATCH_SIZE, seed=0, max_epochs=1e9)
    mesh = make_mesh(MeshConfig())

    def measure() -> float:
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS:
            place_batches(mesh, lambda i: Batch(source.windows(i)), batches.next_indices(STEPS), STEPS, False)
            calls += 1
        return calls * STEPS * BATCH_SIZE * seq_len / (time.perf_counter() - start)

    measure()
    return measure


def write_corpus(path: Path, num_bytes: int) -> Path:
    """Writes a text of drawn words, as large as asked for, and returns its path."""
    draw, words, size = random.Random(0), [], 0
    while size < num_bytes:
        words.append("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))))
        size += len(words[-1]) + 1
    lines = [" ".join(words[index : index + 12]) for index in range(0, len(words), 12)]
    path.write_text("\n".join(lines) + "\n")
    return path


def measure_pipeline(setting: Setting) -> dict[str, Any]:
    """Returns tokens per second of the pipeline and of training, and the head-room; all on one core, in turns."""
    place = setting.place("data")
    corpus = write_corpus(place / "corpus.txt", 200_000 if setting.is_short else 4_000_000)
    environment = {"KLEIBER_CACHE": str(place / "cache")}
    figures = []
    for name, model in SHAPES.items():
        setting.tell(f"{name}: preparing")
        seq_len = model.get("seq_len", 128)
        config = {"model": model, "batch_size": BATCH_SIZE, "steps_per_call": STEPS}
        with ExitStack() as stack:
            options = {"corpus": str(corpus), "seq_len": seq_len}
            data = stack.enter_context(Partner("sections.pipeline:batch_rate", options, environment=environment))
            train = stack.enter_context(Partner("timed_steps:training_rate", config))
            samples = interleaved(
                {"data": data, "train": train}, setting.rounds, warm=1, each_round=setting.each_round(name)
            )
        figures += [
            spread_figure(f"pipeline, windows of {seq_len}", samples.spread("data"), "tokens/s"),
            spread_figure(f"training, {name}", samples.spread("train"), "tokens/s"),
            spread_figure(f"head-room over {name}", samples.ratio("data", "train"), "ratio", GOALS["data head-room"]),
        ]
    return {"figures": figures}
