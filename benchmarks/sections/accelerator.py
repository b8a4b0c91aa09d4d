"""Section accelerator: large models against the matmul peak, small ones by the hundred against one at a time.

Each workload is a process of its own, so that all of the device's memory is its own too; the peak and the candidates
take turns inside it. Without an accelerator the goals are told and nothing runs (--short runs everything, tiny).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from kleiber.experiments.bench.figures import Figure, at_most, spread_figure
from kleiber.experiments.bench.interleave import Samples, interleaved, seconds_of, spread_of
from kleiber.experiments.bench.machine import accelerator
from kleiber.experiments.bench.partner import measure_fresh
from kleiber.experiments.bench.setting import Setting
from kleiber.parallel.environment import num_cores
from sections.goals import ACCELERATOR_GOALS, AcceleratorGoal
from sections.workloads import SHORT_WORKLOADS, WORKLOADS, Workload

PEAK_SIZES, SHORT_PEAK_SIZES = (4096, 8192), (128,)
SAME_LOSS = 1e-3
"""Relative; up to which a member of a population trains as it would alone."""


def measure_accelerator(setting: Setting) -> dict[str, Any]:
    """Returns a figure for each workload, next to its goal."""
    kind = accelerator()
    if kind is None and not setting.is_short:
        return {"figures": [], "reason": "no accelerator: CPU part only", "goals": _goals()}
    figures, measured, failed = [], {}, []
    for name, workload in (SHORT_WORKLOADS if setting.is_short else WORKLOADS).items():
        goal = ACCELERATOR_GOALS[name]
        if setting.is_short:
            goal = dataclasses.replace(goal, workload=f"tiny, in place of {name}")
        setting.tell(f"{goal.workload}: starting")
        try:
            found = _measure(setting, workload)
        except RuntimeError as problem:  # out of memory, most likely: the others go on
            failed.append(f"{name}: {str(problem)[-300:]}")
            continue
        measured[name] = found
        figures += _figures(goal, workload, found)
    reason = f"failed: {'; '.join(failed)}" if failed else None
    return {"figures": figures, "reason": reason, "kind": kind, "measured": measured, "goals": _goals()}


def _goals() -> list[dict[str, Any]]:
    """Returns the goals as results keep them."""
    return [{"name": name, **vars(goal)} for name, goal in ACCELERATOR_GOALS.items()]


def _measure(setting: Setting, workload: Workload) -> dict[str, Any]:
    """Returns what the process of a workload says."""
    options: dict[str, Any] = {"rounds": setting.rounds}
    if workload.kind == "stall":
        options |= {"folder": str(setting.place("stall")), "rounds": min(3, setting.rounds)}
        options |= {"num_arrays": workload.num_members, "shape": [250, 1000]}
        return measure_fresh("sections.saving:stall_seconds", options, num_threads=num_cores())
    options |= {"num_members": workload.num_members, **workload.config}
    if workload.kind == "fraction":
        options["sizes"] = list(SHORT_PEAK_SIZES if setting.is_short else PEAK_SIZES)
    tasks = {"fraction": "peak_rounds", "population": "population_rounds", "host": "host_rounds"}
    return measure_fresh(f"sections.accelerator:{tasks[workload.kind]}", options, num_threads=num_cores())


def peak_rounds(rounds: int, num_members: int, sizes: list[int], **config: Any) -> Callable[[], dict[str, Any]]:
    """Returns a function that trains and multiplies in turns: tokens/s, FLOP/s, and the peak of the data sheet."""
    import jax

    from kleiber.experiments.bench.kernels import xla_rate
    from kleiber.experiments.bench.timed_steps import TimedSteps, training_config
    from kleiber.model.counts import flops_per_token, flops_per_token_causal
    from sections.peaks import bfloat16_peak

    block = TimedSteps(training_config(**config), num_members)
    peak, model = xla_rate(sizes, "bfloat16"), block.config.model

    def measure() -> dict[str, Any]:
        candidates: dict[str, Callable[[], float]] = {
            "tokens_per_second": functools.partial(_rate, block),
            "peak": peak,
        }
        return {
            "samples": dict(interleaved(candidates, rounds, warm=2).values),
            "flops_per_token": flops_per_token(model),
            "flops_per_token_causal": flops_per_token_causal(model),
            "data_sheet_peak": bfloat16_peak(jax.devices()[0]),
        }

    return measure


def population_rounds(rounds: int, num_members: int, **config: Any) -> Callable[[], dict[str, Any]]:
    """Returns a function that trains a population and one model in turns: tokens/s of both, and whether the first
    member's losses are those of the model alone."""
    import numpy as np

    from kleiber.experiments.bench.timed_steps import TimedSteps, training_config

    many, one = (TimedSteps(training_config(**config), count) for count in (num_members, 1))

    def measure() -> dict[str, Any]:
        difference = float(np.max(np.abs(many.train()[0] / one.train() - 1)))
        rates = {"many": functools.partial(_rate, many), "one": functools.partial(_rate, one)}
        return {"samples": dict(interleaved(rates, rounds, warm=1).values), "loss_difference": difference}

    return measure


def _rate(block: Any) -> float:
    """Returns tokens per second of one call of a block."""
    return block.tokens_per_call / seconds_of(block.train)()


def host_rounds(rounds: int, num_members: int, **config: Any) -> Callable[[], dict[str, Any]]:
    """Returns a function that says the host's microseconds a step: reading tokens and handing the block over."""
    from kleiber.experiments.bench.timed_steps import TimedSteps, training_config

    block = TimedSteps(training_config(**config), num_members)

    def microseconds() -> float:
        block.train()
        return block.host_seconds / block.config.steps_per_call * 1e6

    def measure() -> dict[str, Any]:
        return {"samples": dict(interleaved({"host": microseconds}, rounds, warm=2).values)}

    return measure


def _figures(goal: AcceleratorGoal, workload: Workload, found: dict[str, Any]) -> list[Figure]:
    """Returns the figures of one workload, from what its process said."""
    name = goal.workload
    if workload.kind == "fraction":
        return _fraction_figures(goal, found)
    if workload.kind == "stall":
        return [spread_figure(name, spread_of(found["stall"]).times(1 / 100), goal.unit, goal.goal)]
    samples = Samples(found["samples"])
    if workload.kind == "host":
        return [spread_figure(name, samples.spread("host"), goal.unit, goal.goal)]
    speed, difference = f"{samples.spread('many').median:,.0f} tokens/s", found["loss_difference"]
    return [
        spread_figure(name, samples.ratio("many", "one"), goal.unit, goal.goal, speed),
        Figure(f"{name}: losses differ by", difference, "of the loss", goal=at_most(SAME_LOSS)),
    ]


def _fraction_figures(goal: AcceleratorGoal, found: dict[str, Any]) -> list[Figure]:
    samples, sheet = Samples(found["samples"]), found["data_sheet_peak"]
    speed, fraction = samples.spread("tokens_per_second"), samples.ratio("tokens_per_second", "peak")
    peak = f"peak {samples.spread('peak').median / 1e12:.4g} TFLOP/s"
    figures = [spread_figure(f"{goal.workload}: tokens/s", speed, "tokens/s")]
    conventions = (
        ("6N + causal attention", "flops_per_token_causal", goal.goal),
        ("6N + full attention", "flops_per_token", None),
    )
    for convention, count, held_to in conventions:
        of_sheet = f"; {speed.median * found[count] / sheet:.1%} of the data sheet (MFU)" if sheet else ""
        spread = fraction.times(found[count])
        figures.append(spread_figure(f"{goal.workload}: {convention}", spread, goal.unit, held_to, peak + of_sheet))
    return figures
