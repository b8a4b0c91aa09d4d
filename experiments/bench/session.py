"""A run of the bench: sections one after another, each with the load of the machine beside it."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from kleiber.experiments.bench.figures import Figure
from kleiber.experiments.bench.machine import command_line, load, now, processor_seconds
from kleiber.experiments.bench.sections import SECTIONS, Section
from kleiber.experiments.bench.setting import Setting, Unavailable

FORMAT = 1
"""Of the JSON object."""
QUIET_SECONDS = 4.0
"""Longest silence of a section at work."""


def run_sections(
    names: Sequence[str],
    rounds: int,
    is_short: bool,
    machine: dict[str, Any],
    on_section: Callable[[Section, dict[str, Any]], None],
    sweep_scale: float = 0.1,
) -> dict[str, Any]:
    """Returns the result of a bench, fit for JSON. A section that fails leaves its reason in place of figures, and the
    others go on.

    `names` are of SECTIONS, machine is as describe_machine returns, and on_section hears of each section as it ends,
    with the result so far."""
    result: dict[str, Any] = {"format": FORMAT, "is_short": is_short, "machine": machine, "sections": {}}
    with tempfile.TemporaryDirectory(prefix="kleiber-bench-") as folder, contextlib.ExitStack() as stack:
        # A cache of our own: nothing measured here comes from before, and nothing stays.
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
        stack.enter_context(mock.patch.dict(os.environ, cache))
        for section in (section for name, section in SECTIONS.items() if name in names and name != "machine"):
            result["sections"][section.name] = _run(section, rounds, is_short, Path(folder), sweep_scale)
            result = summarised({**result, "load_average_after": load()})
            on_section(section, result)
    return summarised(result)


def summarised(result: dict[str, Any]) -> dict[str, Any]:
    """Returns a result with what can be read off its sections: the ratio of the sweep, and the goals met and missed."""
    figures = {
        f"{name}: {figure['name']}": figure["is_met"]
        for name, found in result["sections"].items()
        for figure in found["figures"]
        if figure["is_met"] is not None
    }
    sweep = result["sections"].get("sweep", {})
    return {
        **result,
        "sweep_ratio_to_pytorch": sweep.get("detail", {}).get("sweep_ratio_to_pytorch"),
        "goals_met": [name for name, is_met in figures.items() if is_met],
        "goals_missed": [name for name, is_met in figures.items() if not is_met],
    }


def _run(section: Section, rounds: int, is_short: bool, folder: Path, sweep_scale: float) -> dict[str, Any]:
    head = {"date": now(), "command": command_line(), "rounds": rounds, "load_before": load()}
    began, worked, found, reason = time.perf_counter(), processor_seconds(), {}, None
    with _progress(section.name) as tell:
        try:
            found = section.measure(Setting(rounds, is_short, folder, tell, sweep_scale))
            reason = found.pop("reason", None)
        except Unavailable as why:
            reason = str(why)
        except Exception as problem:  # one section must not take the others with it
            reason = f"failed: {type(problem).__name__}: {problem}"
    seconds = time.perf_counter() - began
    everybody, ours = (after - before for after, before in zip(processor_seconds(), worked, strict=True))
    figures: list[Figure] = found.pop("figures", [])
    if is_short:  # nobody is held to a goal by tiny shapes
        figures = [Figure(**{**vars(figure), "goal": None}) for figure in figures]
    return {
        **head,
        "reason": reason,
        "figures": [figure.as_dict() for figure in figures],
        "detail": found,
        "load_after": load(),
        # Not a load average, which counts this bench too.
        "cores_used_by_others": round(max(0.0, everybody - ours) / max(seconds, 0.1), 2),
        "seconds": round(seconds, 1),
    }


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[str], None]]:
    """Yields what prints a line of progress on standard error, which also breaks every longer silence."""
    import threading

    lock, done, began = threading.Lock(), threading.Event(), time.monotonic()
    last, spoken = "", began

    def tell(line: str) -> None:
        nonlocal last, spoken
        with lock:
            last, spoken = line, time.monotonic()
            print(f"{name:<11} {spoken - began:4.0f} s  {line}", file=sys.stderr, flush=True)

    def beat() -> None:
        while not done.wait(1.0):
            if time.monotonic() - spoken > QUIET_SECONDS:
                tell(last)

    thread = threading.Thread(target=beat, daemon=True)
    tell("starting")
    thread.start()
    try:
        yield tell
    finally:
        done.set()
        thread.join()
