"""Section step: how fast one model trains, beside its peers and as a fraction of the matmul peak of the same minute."""

import contextlib
import importlib.util
from typing import Any

from kleiber.experiments.bench.figures import Figure, Goal, at_least, spread_figure
from kleiber.experiments.bench.interleave import Samples, Spread, interleaved, spread_of
from kleiber.experiments.bench.matmul import peaks, start_kernels
from kleiber.experiments.bench.partner import Partner
from kleiber.experiments.bench.setting import Setting
from kleiber.experiments.bench.step_shapes import StepShape, shapes
from kleiber.experiments.bench.step_speed import measure_shape
from kleiber.model.counts import flops_per_token, flops_per_token_causal
from kleiber.parallel.environment import num_cores

PEERS = {"torch": "PyTorch eager", "torch_compiled": "PyTorch compiled", "jax": "plain JAX"}
COMPARED = ("d64", "d128", "d256", "nanogpt")
FRACTIONS = {
    "d128": "fraction of peak at d_model 128",
    "nanogpt": "fraction of peak, nanoGPT's recipe",
    "d384": "fraction of peak at d_model 384",
}
"""Shapes whose fraction of the peak is measured, and the goal of each."""
GOALS: dict[str, Goal] = {
    "step over PyTorch eager": at_least(1.2, 1.5),
    "step over PyTorch eager, nanoGPT's recipe": at_least(1.2, 2.0),
    "step over PyTorch compiled, nanoGPT's recipe": at_least(0.9, 1.2),
    "fraction of peak at d_model 128": at_least(0.35, 0.5),
    "fraction of peak, nanoGPT's recipe": at_least(0.35, 0.55),
    "fraction of peak at d_model 384": at_least(0.55, 0.7),
}
"""What some figures are held to, by what is measured."""
CONVENTIONS = {"6N + causal attention": flops_per_token_causal, "6N + full attention": flops_per_token}


def measure_one_model(setting: Setting) -> dict[str, Any]:
    """Returns tokens per second and ratios to the peers that are installed, then the fractions of the peak."""
    has_torch = importlib.util.find_spec("torch") is not None
    peers = ("torch", "torch_compiled", "jax") if has_torch else ("jax",)
    compared, peers = (("d32",), peers[-1:]) if setting.is_short else (COMPARED, peers)
    if not has_torch:
        setting.tell("torch is not installed (pip install 'kleiber[bench]'): its peers are left out")
    names = ("kleiber_threads", "kleiber_data", *peers)
    steps = {shape: measure_shape(setting, shape, names) for shape in compared}
    figures = [figure for name, found in steps.items() for figure in ratio_figures(name, found, setting.rounds)]
    fractions = {}
    for name in ("d32",) if setting.is_short else FRACTIONS:
        for num_threads in sorted({1, num_cores()}):
            more, fractions[f"{name}, {num_threads} threads"] = _fraction(setting, name, num_threads)
            figures += more
    left_out = [] if has_torch else ["torch", "torch_compiled"]
    return {"figures": figures, "steps": steps, "fractions_of_peak": fractions, "peers_left_out": left_out}


def ratio_figures(name: str, found: dict[str, Any], rounds: int) -> list[Figure]:
    """Returns the figures of one shape of step_speed.measure_shape."""
    figures = []
    for arrangement, speed in found["tokens_per_second"].items():
        is_best = arrangement == found["best_arrangement"]
        figures.append(
            Figure(f"{name}: {arrangement}", speed, "tokens/s", rounds=rounds, note="best of ours" if is_best else "")
        )
    for peer, ratio in found["ratios"].items():
        goal = f"step over {PEERS[peer]}" + (", nanoGPT's recipe" if name == "nanogpt" else "")
        figures.append(spread_figure(f"{name}: over {PEERS[peer]}", Spread(**ratio), "ratio", GOALS.get(goal)))
    for peer, roof in found["roofs"].items():
        note = "products alone, at the matmul peak"
        figures.append(spread_figure(f"{name}: roof over {PEERS[peer]}", Spread(**roof), "ratio", note=note))
    return figures


def fractions_of_peak(shape: StepShape, samples: Samples) -> dict[str, list[float]]:
    """Returns the fraction of the matmul peak in each round, by convention of counting FLOPs; samples hold tokens per
    second under `kleiber`, FLOP/s under `NumPy` and `XLA`, of which the faster is the peak of a round."""
    return {
        convention: [
            tokens * count(shape.model) / peak
            for tokens, peak in zip(samples.values["kleiber"], peaks(samples), strict=True)
        ]
        for convention, count in CONVENTIONS.items()
    }


def _fraction(setting: Setting, name: str, num_threads: int) -> tuple[list[Figure], dict[str, Any]]:
    """Trains on one core, or as one model on all, with the peak of as many threads measured in turns.

    All cores are used as threads of one device and as one-thread devices that share the batch; the faster counts.
    """
    shape = shapes()[name]
    model = {key: value for key, value in vars(shape.model).items() if key != "experts"}
    config = {"model": model, "batch_size": shape.batch_size, "steps_per_call": max(1, shape.num_steps // 2)}
    label = f"{name}, {num_threads} thread{'s' if num_threads > 1 else ''}"
    ways = {"threads": 1} if num_threads == 1 else {"threads": 1, "devices": num_threads}
    setting.tell(f"{label}: compiling")
    with contextlib.ExitStack() as stack:
        candidates = start_kernels(stack, setting, num_threads)
        for way, num_devices in ways.items():
            options = {**config, "mesh": {"data": num_devices}}
            partner = Partner("timed_steps:training_rate", options, num_threads, num_devices)
            candidates[way] = stack.enter_context(partner)
        progress = setting.each_round(f"fraction of peak, {label}")
        samples = interleaved(candidates, setting.rounds, warm=1, each_round=progress)
    best = max(ways, key=lambda way: samples.spread(way).median)
    chosen = Samples({**samples.values, "kleiber": samples.values[best]})
    fractions = {kind: spread_of(values) for kind, values in fractions_of_peak(shape, chosen).items()}
    peak = spread_of(peaks(samples)).median / 1e9
    note = f"{samples.spread(best).median:,.0f} tokens/s, peak {peak:.4g} GFLOP/s"
    note += f", one-thread devices: {num_threads}" if best == "devices" else ""
    # The goal is on the strict count, which credits no masked score.
    goals = (GOALS.get(FRACTIONS.get(name, "")), None)
    figures = [
        spread_figure(f"{label}: {kind}", spread, "of peak", goal, note if goal else "")
        for (kind, spread), goal in zip(fractions.items(), goals, strict=True)
    ]
    return figures, {kind: spread.as_dict() for kind, spread in fractions.items()} | {"samples": samples.as_dict()}
