"""Section matmul: the peak that fractions are taken of, on one core and on all."""

import contextlib
from typing import Any

from kleiber.experiments.bench.figures import spread_figure
from kleiber.experiments.bench.interleave import Samples, interleaved
from kleiber.experiments.bench.partner import Partner
from kleiber.experiments.bench.setting import Setting
from kleiber.parallel.environment import num_cores

SIZES, SHORT_SIZES = (512, 1024), (256,)


def sizes(setting: Setting) -> tuple[int, ...]:
    """Returns the edges of the square matrices to multiply."""
    return SHORT_SIZES if setting.is_short else SIZES


def start_kernels(stack: contextlib.ExitStack, setting: Setting, num_threads: int) -> dict[str, Partner]:
    """Returns the processes that measure the peak with so many threads, by library; the stack ends them."""
    tasks = {"NumPy": "kernels:numpy_rate", "XLA": "kernels:xla_rate"}
    options = {"sizes": sizes(setting)}
    return {name: stack.enter_context(Partner(task, options, num_threads=num_threads)) for name, task in tasks.items()}


def peaks(samples: Samples) -> list[float]:
    """Returns the peak of each round, FLOP/s: the faster of the libraries that start_kernels started."""
    return [max(pair) for pair in zip(samples.values["NumPy"], samples.values["XLA"], strict=True)]


def measure_matmul(setting: Setting) -> dict[str, Any]:
    """Returns the matmul peaks, interleaved: best and median of NumPy and XLA, one thread and all."""
    cores = num_cores()
    with contextlib.ExitStack() as stack:
        partners: dict[str, Partner] = {}
        for num_threads in sorted({1, cores}):
            label = f"{num_threads} thread{'s' if num_threads > 1 else ''}"
            started = start_kernels(stack, setting, num_threads)
            partners |= {f"{name}, {label}": partner for name, partner in started.items()}
        samples = interleaved(partners, setting.rounds, warm=1, each_round=setting.each_round("matmul"))
    figures = [
        spread_figure(
            name, samples.spread(name).times(1e-9), "GFLOP/s", note=f"best {max(samples.values[name]) / 1e9:.4g}"
        )
        for name in partners
    ]
    if cores > 1:
        for library in ("NumPy", "XLA"):
            ratio = samples.ratio(f"{library}, {cores} threads", f"{library}, 1 thread")
            figures.append(spread_figure(f"{library}, {cores} threads over one", ratio, "ratio"))
    peaks = {name: {"median": samples.spread(name).median, "best": max(samples.values[name])} for name in partners}
    return {"figures": figures, "sizes": list(sizes(setting)), "flops_per_second": peaks}
