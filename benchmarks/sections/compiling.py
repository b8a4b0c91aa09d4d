"""Section compile: seconds to trace and compile a training block, from nothing and from the cache on disk."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kleiber.experiments.bench.figures import spread_figure
from kleiber.experiments.bench.interleave import interleaved
from kleiber.experiments.bench.partner import measure_fresh
from kleiber.experiments.bench.setting import Setting
from kleiber.experiments.bench.timed_steps import TimedSteps, training_config

SHAPES: dict[str, dict[str, Any]] = {
    "d24, 2 layers": {"d_model": 24, "num_layers": 2, "num_heads": 4, "has_previous_token_mix": True},
    "d128, 4 layers": {"d_model": 128, "num_layers": 4, "num_heads": 4},
    "d384, 6 layers": {"d_model": 384, "num_layers": 6, "num_heads": 6, "seq_len": 256},
}
SHORT_SHAPES = {"d8, 1 layer": {"d_model": 8, "num_layers": 1, "num_heads": 1, "seq_len": 16}}
MOST_ROUNDS = 3
"""Each costs two processes a shape, and seconds of compilation vary little."""


def compile_seconds(**config: Any) -> Callable[[], list[float]]:
    """Returns a function that traces and compiles the block of a config once: seconds of both."""

    def measure() -> list[float]:
        block = TimedSteps(training_config(**config))
        return [block.trace_seconds, block.compile_seconds]

    return measure


class _Shape:
    """Compiles one block, in a fresh process each time."""

    def __init__(self, setting: Setting, options: dict[str, Any]):
        self.setting, self.options = setting, options
        self.seen: dict[str, list[list[float]]] = {"cold": [], "warm": []}
        self.filled = setting.place("cache")
        self._compile(self.filled)

    def cold(self) -> float:
        """Returns seconds with an empty cache."""
        self.seen["cold"].append(self._compile(self.setting.place("cache")))
        return sum(self.seen["cold"][-1])

    def warm(self) -> float:
        """Returns seconds with a cache that holds the program."""
        self.seen["warm"].append(self._compile(self.filled))
        return sum(self.seen["warm"][-1])

    def _compile(self, cache: Path) -> list[float]:
        environment = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        return measure_fresh("sections.compiling:compile_seconds", self.options, environment=environment)


def measure_compiling(setting: Setting) -> dict[str, Any]:
    """Returns cold and warm seconds of each shape; a fresh process each, cold ones with an empty cache folder."""
    shapes = SHORT_SHAPES if setting.is_short else SHAPES
    rounds = min(setting.rounds, MOST_ROUNDS)
    figures, parts = [], {}
    for name, model in shapes.items():
        setting.tell(f"{name}: filling the cache")
        shape = _Shape(setting, {"model": model, "batch_size": 4})
        samples = interleaved(
            {"cold": shape.cold, "warm": shape.warm}, rounds, each_round=setting.each_round(name, rounds)
        )
        parts[name] = shape.seen
        for kind in ("cold", "warm"):
            trace, compiled = (statistics.median(part) for part in zip(*shape.seen[kind], strict=True))
            note = f"tracing {trace:.2f} s, compiling {compiled:.2f} s"
            figures.append(spread_figure(f"{name}, {kind}", samples.spread(kind), "s", note=note))
        figures.append(spread_figure(f"{name}, cold over warm", samples.ratio("cold", "warm"), "ratio"))
    return {"figures": figures, "trace_and_compile_seconds": parts}
