"""Section decode: tokens a second of one thread, beside transformers and a loop by hand, and of many requests."""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kleiber.experiments.bench.figures import Figure, Goal, at_least, spread_figure
from kleiber.experiments.bench.interleave import Samples, interleaved
from kleiber.experiments.bench.partner import Partner
from kleiber.experiments.bench.setting import Setting
from kleiber.model.config import ModelConfig

MODEL: dict[str, Any] = {"d_model": 128, "num_layers": 5, "num_heads": 4, "seq_len": 256}
SHORT_MODEL: dict[str, Any] = {"d_model": 8, "num_layers": 1, "num_heads": 2, "seq_len": 32}
BATCHES = (1, 8, 32)
SLOTS, NUM_REQUESTS = 16, 64
PEERS = {"torch": "a cached loop in PyTorch", "transformers": "transformers"}
GOALS: dict[str, Goal] = {
    "batch 1: over transformers": at_least(5.0),
    "batch 1: over a cached loop in PyTorch": at_least(1.1),
    "batch 8: over transformers": at_least(4.0),
    "batch 32: over transformers": at_least(2.0),
    "requests: slots over one after another": at_least(3.0),
    "requests: slots over fixed batches": at_least(0.8),
}


def lengths(model: ModelConfig) -> tuple[int, int]:
    """Returns the tokens of a prompt and of its answer that a batch is timed with."""
    return model.seq_len // 16, model.seq_len - model.seq_len // 16


def kleiber_rate(batch: int, **shape: Any) -> Callable[[], float]:
    """Returns a function that draws for a batch of prompts and gives tokens per second."""
    import jax

    from kleiber.model.decode.generate import generate_rows
    from kleiber.model.functional import init_params

    model = ModelConfig(**shape)
    params, (known, new) = jax.device_put(init_params(model, 0)), lengths(model)
    prompts = np.random.default_rng(0).integers(0, model.vocab_size, (batch, known)).tolist()

    def measure() -> float:
        begun = time.perf_counter()
        generate_rows(model, params, prompts, new)
        return batch * new / (time.perf_counter() - begun)

    measure()
    return measure


def requests_rate(**shape: Any) -> Callable[[str], float]:
    """Returns a function that answers the same mixed requests in a way and gives tokens per second: `slots` as they
    come free, `fixed` in batches that wait for their longest, `one` after another."""
    import jax

    from kleiber.model.decode.batching import Engine, answer_all
    from kleiber.model.decode.generate import generate_rows
    from kleiber.model.decode.inference import Request
    from kleiber.model.functional import init_params

    model, draw = ModelConfig(**shape), np.random.default_rng(0)
    params, half = jax.device_put(init_params(model, 0)), model.seq_len // 2
    requests = []
    for seed in range(NUM_REQUESTS):
        known, new = (int(draw.integers(low, half)) for low in (half // 16, half // 8))
        requests.append(Request(tuple(draw.integers(0, model.vocab_size, known).tolist()), new, seed=seed))
    engine = Engine(model, params, SLOTS)

    def fixed() -> None:
        for start in range(0, NUM_REQUESTS, SLOTS):
            some = requests[start : start + SLOTS]
            prompts, seeds = [each.prompt for each in some], [each.seed for each in some]
            generate_rows(model, params, prompts, max(each.num_tokens for each in some), seed=seeds)

    def one() -> None:
        for each in requests:
            generate_rows(model, params, [each.prompt], each.num_tokens, seed=each.seed)

    ways = {"slots": lambda: list(answer_all(engine, requests)), "fixed": fixed, "one": one}
    for way in ways.values():
        way()

    def measure(way: str) -> float:
        begun = time.perf_counter()
        ways[way]()
        return sum(each.num_tokens for each in requests) / (time.perf_counter() - begun)

    return measure


def measure_decoding(setting: Setting) -> dict[str, Any]:
    """Returns tokens per second of one thread and ratios to the peers that are installed, taken in turns."""
    shape = SHORT_MODEL if setting.is_short else MODEL
    peers = [name for name in PEERS if not setting.is_short and importlib.util.find_spec("torch")]
    if not importlib.util.find_spec("transformers"):
        peers = peers[:1]
    figures: list[Figure] = []
    for batch in (1,) if setting.is_short else BATCHES:
        label, tasks = f"batch {batch}", {"kleiber": "sections.decoding:kleiber_rate"}
        tasks |= {name: f"sections.torch_decoding:{name}_rate" for name in peers}
        setting.tell(f"{label}: compiling")
        partners = {name: Partner(task, {"batch": batch, **shape}) for name, task in tasks.items()}
        progress = setting.each_round(label)
        figures += _figures(label, interleaved(partners, setting.rounds, each_round=progress), PEERS)
        for partner in partners.values():
            partner.close()
    setting.tell("requests: compiling")
    with Partner("sections.decoding:requests_rate", shape) as partner:
        names = {"one": "one after another", "fixed": "fixed batches"}
        ways = {"slots": lambda: partner.ask("slots"), "one": lambda: partner.ask("one")}
        ways |= {"fixed": lambda: partner.ask("fixed")}
        samples = interleaved(ways, setting.rounds, each_round=setting.each_round("requests"))
    figures += _figures("requests", samples, names)
    left_out = [] if setting.is_short else [name for name in PEERS if name not in peers]
    return {"figures": figures, "peers_left_out": left_out}


def _figures(label: str, samples: Samples, others: dict[str, str]) -> list[Figure]:
    """Returns the rates of the first candidate and of others, and the first one's ratio to each."""
    first, *rest = samples.values
    figures = [
        spread_figure(f"{label}: {others.get(each, each)}", samples.spread(each), "tokens/s") for each in samples.values
    ]
    for each in rest:
        name = f"{label}: {'over' if first == 'kleiber' else f'{first} over'} {others[each]}"
        figures.append(spread_figure(name, samples.ratio(first, each), "ratio", GOALS.get(name)))
    return figures
